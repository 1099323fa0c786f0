// Everybody may write to what a channel shares. Whatever stands there, an end reads nothing outside its mappings, loops
// over nothing for ever and touches no file of another channel: it fails with an error or delivers nonsense.
#include "payload.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

const ChannelSpec kSpec = {"text", 64, Pattern::mpmc, {{"change", 0, true, true}, {"read", 1}, {"look", 1}}};

/// Writable mappings of all files of a channel, as any of its members could have.
std::vector<sys::Mapping> maps(const Home& home) {
    std::vector<sys::Mapping> all;
    for (const std::string& name : home.files()) {
        const sys::Fd fd = sys::open_file(*home.directory->fd, name, true);
        all.push_back(sys::map(fd, sys::checked_size(fd, name), true, sys::Populate::no));
    }
    return all;
}

uint64_t spoiled_word(uint64_t old, Random& random) {
    switch (pick(random, 6)) {
        case 0: return 0;
        case 1: return ~0ull;
        case 2: return old + 1 - 2 * pick(random, 2);
        case 3: return word(pick(random, 4), static_cast<Ack>(pick(random, 8)), pick(random, 1 << 16)) | pick(random, 32) << 16;
        case 4: return stated(pick(random, 8), static_cast<MemberState>(pick(random, 8)));
        default: return old ^ 1ull << pick(random, 64);
    }
}

void spoil(const std::vector<sys::Mapping>& all, Random& random) {
    const sys::Mapping& m = all[pick(random, all.size())];
    // Mostly where something stands: the header, and what follows it within some pages.
    const uint64_t bytes = pick(random, 4) ? std::min<uint64_t>(m.size(), kHeaderBytes + 512) : m.size();
    auto& w = reinterpret_cast<Atomic64*>(m.data())[pick(random, bytes / 8)];
    w.store(spoiled_word(w.load(relaxed), random), relaxed);
}

struct Ends {
    std::vector<std::unique_ptr<Sender>> senders;
    std::vector<std::unique_ptr<Receiver>> receivers;
    std::vector<std::vector<Taken>> held;
};

Ends open_all(const Home& home) {
    Ends e;
    for (int i = 0; i < 2; ++i) e.senders.push_back(sender(home, kSpec, {.capacity = 4, .count_dropped = true}));
    for (const char* stage : {"change", "read", "read", "look"}) e.receivers.push_back(receiver(home, stage));
    e.held.resize(e.receivers.size());
    return e;
}

void use(Ends& e, Random& random) {
    Sender& tx = *e.senders[pick(random, e.senders.size())];
    Loan loan;
    if (tx.try_loan(1 + pick(random, 3), loan)) {
        fill(loan.data, 8, 1, 2);
        pick(random, 4) ? tx.commit(loan, 1) : tx.discard(loan);
    } else {
        (void)tx.why_full();
        (void)tx.why_not_passed();
    }
    if (pick(random, 16) == 0) tx.look_after_others();
    if (pick(random, 16) == 0) (void)tx.loan(1, loan, 0, keep_going);

    const size_t i = pick(random, e.receivers.size());
    Receiver& rx = *e.receivers[i];
    Taken t;
    if (rx.try_take(1 + pick(random, 4), t)) {
        CHECK(t.count <= 4 && t.slot + t.count <= 4);
        uint64_t sum = Receiver::missed(t);
        for (uint64_t k = 0; k < 8 * t.count; ++k) sum += reinterpret_cast<const uint64_t*>(t.data)[k];
        if (rx.writes()) rx.dirty(t);
        (void)rx.linger(t, 4, 0, keep_going);
        (void)sum;
        e.held[i].push_back(t);
    }
    if (e.held[i].size() > pick(random, 3)) {
        pick(random, 8) ? rx.end(e.held[i].front(), pick(random, 4) == 0) : rx.give_back(e.held[i].front());
        e.held[i].erase(e.held[i].begin());
    }
    (void)rx.hoards();
    (void)rx.ended_now();
    (void)rx.sender_lost();
    if (pick(random, 16) == 0) rx.look_after_others();
    if (pick(random, 16) == 0) (void)rx.receive(1, t, 0, keep_going);
}

}  // namespace

TESTS(hostile_test) {
    return check::run({
        {"ends survive whatever is written to the memory that they share",
         [] {
             int errors = 0;
             for (unsigned seed = 1; seed <= 300; ++seed) {
                 Random random(seed);
                 const Home home, neighbour;
                 auto other = sender(neighbour);
                 put(*other, 1);
                 try {
                     Ends e = open_all(home);
                     const auto all = maps(home);
                     for (int i = 0; i < 300; ++i) {
                         use(e, random);
                         if (i % 4 == 0) spoil(all, random);
                     }
                     for (auto& s : e.senders) goodbye(s);
                     for (auto& r : e.receivers) goodbye(r);
                 } catch (const Error&) {
                     ++errors;
                 }
                 try {
                     find_channel(home.directory, "test");  // and who comes later
                     Ends later = open_all(home);
                     for (int i = 0; i < 50; ++i) use(later, random);
                 } catch (const Error&) {
                     ++errors;
                 }
                 CHECK_EQ(neighbour.files().size(), 3u);
             }
             CHECK(errors > 0);  // it was spoiled indeed
         }},
    });
}
