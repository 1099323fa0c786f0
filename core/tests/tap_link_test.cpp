#include "links.hpp"
#include "sleepers.hpp"

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
#include <malloc.h>
#endif

using namespace psyne;
using namespace psyne::test;

namespace {

/// A sender's channel that holds nobody, and the outgoing link of a tap on it.
struct Watched {
    Home home;
    Kind kind;
    std::unique_ptr<Sender> tx;
    std::unique_ptr<Tap> tap;
    TapLink out;
    Far far;
    explicit Watched(Kind k = {})
        : kind(std::move(k)), tx(open()), tap(open_tap(home.directory, "near", {}, "test")), out(*tap, kind.shapes, kind.checksum), far(home, kind) {
        out.connected(0, far.in.capacity());
    }
    std::unique_ptr<Sender> open() const {
        SideColumns columns;
        columns.variants = kind.shapes.size() > 1, columns.stamps = kind.stamps;
        return open_sender(home.directory, "near", test::spec(Pattern::mpsc, {}, kind.room()),
                           {kind.stride(), kind.capacity, columns, Spinner::Mode::block}, "test");
    }
    void put(uint64_t number) { CHECK(send(kind, *tx, number)); }
    void reconnect() {
        out.disconnected(), far.in.disconnected();
        far.in.connected(), out.connected(far.in.next(), far.in.capacity());
    }
    /// The next message that came, by the messages that were missed before it.
    void check_got(uint64_t& next) {
        const Taken t = take(*far.rx);
        next += Receiver::missed(t);
        check_message(kind.shape(next), t, 0, next);
        ++next;
        far.rx->end(t, false);
    }
};

}  // namespace

TESTS(tap_link_test) {
    return check::run({
        {"a far tap sees what is sent, and holds nobody up",
         [] {
             Watched w({{rows(64)}, 8, 16, false, false, true});
             uint64_t next = 0;
             for (uint64_t i = 0; i < 5; ++i) w.put(i);
             talk(w.out, w.far.in);
             for (uint64_t i = 0; i < 5; ++i) w.check_got(next);
             CHECK_EQ(next, 5u);
             for (uint64_t i = 5; i < 1000; ++i) w.put(i);  // nobody listens
             talk(w.out, w.far.in);
             w.check_got(next);
             CHECK(next > 992 && next <= 994);
         }},
        {"a far ring that is full makes a far tap miss messages, and it knows how many",
         [] {
             Watched w({{rows(64)}, 8, 4, false, false, true});
             uint64_t next = 0, sent = 0;
             for (int round = 0; round < 50; ++round) {
                 for (uint64_t i = 0; i < 7; ++i) w.put(sent++);
                 talk(w.out, w.far.in);
                 CHECK(w.out.outstanding() <= 4);
                 w.check_got(next);
             }
             while (w.far.rx->there(1) != 0) w.check_got(next);
             CHECK(next + 20 > sent);
         }},
        {"every kind of message comes as it was, once, through broken connections, and what is missed is counted",
         [] {
             unsigned seed = 0;
             for (const bool checksum : {false, true})
                 for (const Kind& k : {Kind{{rows(64)}, 8, 8}, Kind{{rows(100)}, 8, 5}, Kind{{columns({64, 0, 8, 1})}, 8, 6}, Kind{{shaped(3000, 2, 4)}, 8, 8},
                                       Kind{{rows(16, 0), shaped(40, 1, 8, 1)}, 8, 9}}) {
                     Kind kind = k;
                     kind.checksum = checksum, kind.drops = true, kind.stamps = checksum;
                     Watched w(kind);
                     Random random(++seed);
                     Road there, back;
                     uint64_t sent = 0, next = 0, got = 0;
                     for (int round = 0; round < 20'000; ++round) {
                         switch (pick(random, 6)) {
                             case 0: if (pick(random, 3) == 0) w.put(sent++); break;
                             case 1: there.pour(w.out, random, 300); break;
                             case 2: there.drink(w.far.in, random, 300); break;
                             case 3: back.pour(w.far.in, random, 100); break;
                             case 4: back.drink(w.out, random, 100); break;
                             case 5:
                                 if (w.far.rx->there(1) != 0) w.check_got(next), ++got;
                                 if (pick(random, 100) == 0) there.clear(), back.clear(), w.reconnect();
                                 w.far.in.acknowledge();
                         }
                         CHECK(!w.far.in.stuck() && w.out.outstanding() <= kind.far_capacity);
                     }
                     w.put(sent++);
                     w.reconnect();
                     for (; next < sent; w.far.in.acknowledge()) {
                         talk(w.out, w.far.in);
                         w.check_got(next);
                     }
                     CHECK_EQ(next, sent);
                     CHECK(got > 100);
                 }
         }},
        {"a message that contradicts itself is missed",
         [] {
             Watched w({{shaped(64, 1, 1, 0), rows(8, 1)}, 8, 8, false, false, true});
             for (uint64_t i = 0; i < 3; ++i) w.put(i);
             const uint64_t huge = ~0ull;
             std::memcpy(w.kind.shapes[0].dims_at(w.tx->slab().at(1), w.tx->slab().room), &huge, 8);
             w.tx->slab().variants[0].store(99);
             uint64_t next = 0;
             talk(w.out, w.far.in);
             w.check_got(next);
             CHECK_EQ(next, 3u);
             CHECK_EQ(w.out.corrupted(), 2u);
         }},
        {"a channel that ended ends for a far tap behind its last message",
         [] {
             Watched w({{rows(64)}, 8, 2});
             uint64_t next = 0;
             for (uint64_t i = 0; i < 4; ++i) w.put(i);
             goodbye(w.tx, true);
             talk(w.out, w.far.in);
             CHECK(!w.far.in.ended());
             for (uint64_t i = 0; i < 4; ++i) w.check_got(next), talk(w.out, w.far.in);
             CHECK(w.far.in.ended() && w.far.in.failed() && w.out.understood());
         }},
        {"a channel that may go on has no end for a far tap",
         [] {
             Watched w;
             uint64_t next = 0;
             w.tap->follow = true;
             w.put(0);
             goodbye(w.tx);
             talk(w.out, w.far.in);
             CHECK(!w.far.in.ended());
             w.check_got(next);
             w.tx = w.open();
             w.put(1);
             talk(w.out, w.far.in);
             w.check_got(next);
         }},
        {"who finishes looks at nothing more, and ends",
         [] {
             Watched w;
             uint64_t next = 0;
             w.put(0);
             talk(w.out, w.far.in);
             w.out.finish();
             w.put(1);
             talk(w.out, w.far.in);
             CHECK(w.far.in.ended());
             CHECK_EQ(w.far.in.next(), 1u);
             w.check_got(next);
         }},
        {"as many messages are copied as the copy has room for, and at least one",
         [] {
             const auto check = [](uint64_t bytes, uint64_t capacity, uint64_t most) {
                 Watched w({{rows(bytes)}, capacity, capacity});
                 for (uint64_t i = 0; i < capacity; ++i) w.put(i);
                 const std::vector<Header> all = headers(pour_all(w.out));
                 for (const Header& h : all) CHECK(h.count <= most);
                 CHECK_EQ(all.front().count, most);
             };
             check(100'000, 8, 2);
             check(300'000, 4, 1);
             check(8, 8192, 4096);
             check(0, 8192, 4096);
         }},
        {"messages that are good for nothing keep nobody for long",
         [] {
             Watched w({{rows(8), rows(8, 1)}, 64, 64});
             for (uint64_t i = 0; i < 40; ++i) {
                 Loan loan = lend(*w.tx);
                 loan.variant = 2 + i % 2;
                 w.tx->commit(loan, 1);
             }
             iovec pieces[4];
             CHECK_EQ(w.out.gather(pieces, 4, 1 << 20), 0u);
             CHECK(w.out.corrupted() <= 16);
             for (int i = 0; i < 3; ++i) pour_all(w.out);
             CHECK_EQ(w.out.corrupted(), 40u);
         }},
        {"a slot that is smaller than its message is good for nothing",
         [] {
             for (const MessageShape& s : {rows(64), shaped(64, 2, 4)}) {
                 Watched w({{rows(8)}, 8, 8});
                 TapLink out(*w.tap, {s});
                 out.connected(0, 8);
                 put(*w.tx, 0), put(*w.tx, 0);  // as if of no elements
                 CHECK_EQ(pour_all(out).size(), 0u);
                 CHECK_EQ(out.corrupted(), 2u);
             }
         }},
        {"what was told long ago takes no memory",
         [] {
             Watched w({{rows(64)}, 2, 8, false, false, true});
             uint64_t next = 0, sent = 0;
             const auto in_use = [] {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
                 const auto m = ::mallinfo2();
                 return m.uordblks + m.hblkhd;
#else
                 return size_t{0};
#endif
             };
             const size_t before = in_use();
             for (int round = 0; round < 20'000; ++round) {
                 for (int i = 0; i < 4; ++i) w.put(sent++);  // two of them are missed
                 talk(w.out, w.far.in);
                 while (w.far.rx->there(1) != 0) w.check_got(next);
             }
             CHECK_EQ(next, sent);
             CHECK(in_use() < before + (1 << 17));
         }},
        {"what is written over while it is copied does not come",
         [] {
             constexpr uint64_t kBytes = 200'000;
             Watched w({{rows(kBytes)}, 1, 8});
             std::atomic<bool> over{false};
             std::thread sender = in_thread([&] {
                 Random random(1);
                 for (uint64_t i = 0; i < (kSanitized ? 1000 : 4000); ++i) {
                     const Loan loan = lend(*w.tx);
                     for (uint64_t end = kBytes; end != 0; end -= 1000)  // against the direction of the copy
                         std::memset(loan.data + end - 1000, static_cast<int>(i), 1000);
                     w.tx->commit(loan, 1);
                     for (uint64_t n = pick(random, 200'000); n != 0; --n) std::atomic_signal_fence(seq_cst);  // somebody may begin to copy it
                 }
                 over = true;
             });
             iovec pieces[4];
             uint64_t torn = 0;
             for (bool last = false; !last;) {
                 last = over;
                 for (size_t n = w.out.gather(pieces, 4, 1 << 20), i = 0; i < n; ++i) {
                     const auto* bytes = static_cast<const std::byte*>(pieces[i].iov_base);
                     torn += pieces[i].iov_len == kBytes && std::memcmp(bytes, bytes + 1, kBytes - 1) != 0;
                 }
                 w.out.written(w.out.unwritten());
                 drink_all(w.out, frame({Frame::ack, 0, 0, 8, w.out.sent()}, w.out.sent()));
             }
             sender.join();
             CHECK_EQ(torn, 0u);
         }},
        {"what was let go by a far tap was sent: an ACK beyond it is refused, and so is a connection that goes on elsewhere",
         [] {
             Watched w;
             w.put(0);
             pour_all(w.out);
             Bytes ack(kHeader + 8);
             Header{Frame::ack, 0, 0, 8, 0}.encode(ack.data());
             put(ack.data() + kHeader, uint64_t{2});
             CHECK_THROWS(protocol, "an ACK says", drink_all(w.out, ack));
             w.out.disconnected();
             CHECK_THROWS(protocol, "goes on with message 2", w.out.connected(2, 8));
         }},
        {"what is let go is told position by position, whoever lets it go and however it lies in the ring",
         [] {
             for (const bool stage : {false, true}) {
                 Home home;
                 auto tx = sender(home, stage ? spec(kShared, {{"one"}, {"two"}}) : spec(kShared, {}));
                 std::unique_ptr<Receiver> rx[] = {stage ? receiver(home, "one") : nullptr, stage ? receiver(home, "two") : nullptr};
                 Random random(3);
                 std::vector<Loan> open;
                 std::vector<Taken> held[2];
                 uint64_t next = 0;
                 for (int round = 0; round < 20'000; ++round) {
                     Loan loan;
                     if (open.size() < 3 && pick(random, 2) && tx->try_loan(1, loan)) open.push_back(loan);
                     if (!open.empty() && pick(random, 2)) tx->commit(open.front(), 1), open.erase(open.begin());
                     uint64_t wanted = open.empty() ? tx->position() : open.front().position;
                     for (int s = 0; stage && s < 2; ++s) {
                         Taken t;
                         if (held[s].size() < 3 && pick(random, 2) && rx[s]->try_take(1, t)) held[s].push_back(t);
                         if (!held[s].empty() && pick(random, 2)) {
                             std::swap(held[s].back(), held[s][pick(random, held[s].size())]);
                             rx[s]->end(held[s].back(), false);
                             held[s].pop_back();
                         }
                         for (const Taken& h : held[s]) wanted = std::min(wanted, h.position());
                         wanted = std::min(wanted, (*rx[s]->lanes().begin())->next.position);
                     }
                     CHECK_EQ(tx->let_go_until(next), wanted);
                     if (pick(random, 3)) next = wanted;
                 }
                 CHECK(next > 1000);
             }
         }},
    });
}
