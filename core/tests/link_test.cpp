#include "links.hpp"
#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// Sends `many` messages through random pieces and broken connections. Each comes once, in order, whole.
void journey(const Kind& kind, uint64_t many, unsigned seed) {
    Joined j(kind);
    Random random(seed);
    Road there, back;
    std::vector<Taken> held;
    uint64_t sent = 0, got = 0, breaks = 0;
    const uint64_t piece = seed % 2 ? 300 : 5000;
    for (uint64_t round = 0; got < many || !held.empty(); ++round) {
        switch (pick(random, 7)) {
            case 0: {
                const uint64_t n = sent < many ? std::min({1 + pick(random, 5), many - sent, kind.capacity}) : 0;
                const uint64_t alike = kind.shapes.size() > 1 ? 3 - sent % 3 : n;
                if (n != 0 && send(kind, *j.near.tx, sent, std::min(n, alike))) sent += std::min(n, alike);
                break;
            }
            case 1: there.pour(j.near.out, random, piece); break;
            case 2: there.drink(j.far.in, random, piece); break;
            case 3: back.pour(j.far.in, random, 100); break;
            case 4: back.drink(j.near.out, random, 100); break;
            case 5: {
                Taken t;
                if (held.size() > 2 || !j.far.rx->try_take(1 + pick(random, 4), t)) break;
                for (uint64_t i = 0; i < t.count; ++i) check_message(kind.shape(got + i), t, i, got + i);
                if (kind.stamps) CHECK(t.remote() != 0);
                CHECK_EQ(t.position(), got);
                got += t.count;
                held.push_back(t);
                break;
            }
            case 6:
                if (!held.empty()) {
                    std::swap(held.back(), held[pick(random, held.size())]);  // in any order
                    j.far.rx->end(held.back(), false);
                    held.pop_back();
                } else if (got == many) {
                    break;
                }
                if (pick(random, 40) == 0) {
                    j.disconnect();
                    there.clear(), back.clear();
                    j.connect();
                    ++breaks;
                }
                j.far.in.acknowledge();
        }
        CHECK(j.near.out.outstanding() <= kind.far_capacity);
        CHECK(!j.far.in.stuck());
        CHECK_EQ(j.far.in.next() - j.far.in.let_go() <= kind.far_capacity, true);
    }
    CHECK(breaks != 0);
    goodbye(j.near.tx);
    j.disconnect(), j.connect();
    j.talk();
    CHECK(j.near.out.understood() && j.near.out.finished() && j.far.in.ended() && j.far.in.finished());
    CHECK_EQ(j.near.out.let_go(), many);
    CHECK_EQ(j.near.rx->outstanding(), 0u);
    CHECK(nothing(*j.far.rx));
}

void wait_for_socket(int fd, short events, int ms) {
    pollfd p{fd, events, 0};
    ::poll(&p, 1, ms);
}

}  // namespace

TESTS(link_test) {
    return check::run({
        {"messages come once, in order and whole, through pieces of any size and broken connections",
         [] {
             const uint64_t many = long_run() ? 100'000 : kSanitized ? 500 : 2000;
             unsigned seed = 0;
             for (bool checksum : {false, true})
                 for (bool stamps : {false, true}) {
                     const auto kind = [&](std::vector<MessageShape> shapes, uint64_t near, uint64_t far) {
                         return Kind{std::move(shapes), near, far, checksum, stamps};
                     };
                     journey(kind({rows(64)}, 8, 8), many, ++seed);
                     journey(kind({rows(8)}, 64, 16), many, ++seed);
                     journey(kind({rows(100)}, 7, 5), many, ++seed);
                     journey(kind({rows(9000)}, 4, 3), many / 10, ++seed);
                     journey(kind({rows(24)}, 3, 1), many / 3, ++seed);
                     journey(kind({columns({64, 8, 4, 1})}, 8, 7), many, ++seed);
                     journey(kind({columns({0, 4096, 0, 8192, 0})}, 8, 6), many / 10, ++seed);
                     journey(kind({shaped(1000, 1, 1)}, 8, 8), many / 3, ++seed);
                     journey(kind({shaped(20000, 3, 4)}, 8, 4), many / 10, ++seed);
                     journey(kind({rows(16, 0x10000), shaped(40, 2, 8, 1), rows(0, 2), rows(300, 3)}, 8, 9), many, ++seed);
                 }
         }},
        {"a large message is read straight into its slot",
         [] {
             constexpr uint64_t kBytes = 4 << 20;
             Joined j({{rows(kBytes)}, 2, 2});
             for (uint64_t number = 0; number < 5; ++number) {
                 j.put(number);
                 const Bytes all = pour_all(j.near.out);
                 const Slab& slab = j.far.tx->slab();
                 uint64_t copied = 0;
                 for (size_t at = 0; at < all.size();) {
                     const std::byte* to = j.far.in.buffer().data();
                     const size_t n = drink(j.far.in, all.data() + at, all.size() - at, 1 << 20);
                     if (to >= slab.at(0) && to < slab.at(2)) CHECK(to >= slab.at(number % 2) && to < slab.at(number % 2) + kBytes);
                     else copied += n;
                     at += n;
                 }
                 CHECK(copied <= (number == 0 ? InLink::kScratch : InLink::kHeads));
                 j.check_got(number);
                 j.talk();
             }
         }},
        {"many small messages come with one read and go with one write",
         [] {
             Joined j({{rows(64)}, 512, 512});
             for (uint64_t i = 0; i < 500; i += 5) j.put(i, 5);
             iovec pieces[Outbox::kPieces];
             CHECK_EQ(j.near.out.gather(pieces, Outbox::kPieces, 1 << 20), 2u);  // a header, and the slots as they lie
             CHECK(pieces[1].iov_base == (*j.near.rx->lanes().begin())->slab.at(0));
             const Bytes all = pour_all(j.near.out);
             CHECK_EQ(all.size(), 32 + 24 + 500 * 64u);
             CHECK_EQ(drink(j.far.in, all.data(), all.size()), all.size());
             for (uint64_t i = 0; i < 500; ++i) j.check_got(i);
         }},
        {"what has come is published before its frame is whole, unless a checksum is for all of it",
         [] {
             for (const bool checksum : {false, true}) {
                 Joined j({{rows(64)}, 16, 16, checksum});
                 j.put(0, 8);
                 const Bytes all = pour_all(j.near.out);
                 const size_t half = all.size() - 3 * 64 - 1;
                 CHECK_EQ(drink(j.far.in, all.data(), half), half);
                 CHECK_EQ(j.far.in.next(), checksum ? 0u : 4u);
                 j.disconnect();
                 CHECK_EQ(j.far.tx->position(), j.far.in.next());  // what is not whole was never there
                 j.connect();
                 j.talk();
                 for (uint64_t i = 0; i < 8; ++i) j.check_got(i);
             }
         }},
        {"no more messages are under way than the far ring has slots, and a sender sees that it is full",
         [] {
             Joined j({{rows(64)}, 4, 3});
             for (uint64_t i = 0; i < 4; ++i) j.put(i);
             j.talk();
             CHECK_EQ(j.far.in.next(), 3u);
             CHECK(!send(j.kind, *j.near.tx, 4));
             CHECK(!j.near.tx->passed());
             j.check_got(0);
             j.talk();
             CHECK_EQ(j.far.in.next(), 4u);
             j.put(4);
             for (uint64_t i = 1; i < 5; ++i) j.talk(), j.check_got(i);
             j.far.in.acknowledge();
             j.talk();
             CHECK(j.near.tx->passed());
         }},
        {"a message is let go here when all far stages have let it go, not before",
         [] {
             Joined j;
             j.put(0), j.put(1);
             j.talk();
             const Taken a = take(*j.far.rx), b = take(*j.far.rx);
             j.far.rx->end(b, false);
             j.far.rx->end(a, true);  // own views live
             j.far.in.acknowledge();
             j.talk();
             CHECK_EQ(j.near.tx->occupied(), 2u);
             j.far.rx->finish(a);
             j.far.in.acknowledge();
             j.talk();
             CHECK_EQ(j.near.tx->occupied(), 0u);
         }},
        {"more than the ring has room for is not read, until it has room again",
         [] {
             Joined j({{rows(64)}, 16, 4});
             OutLink& out = j.near.out;
             out.disconnected();
             out.connected(0, 16);  // believes in more slots than there are
             j.put(0, 10);
             const Bytes all = pour_all(out);
             size_t at = drink(j.far.in, all.data(), all.size());
             CHECK(j.far.in.stuck());
             for (uint64_t i = 0; i < 10; ++i) {
                 j.check_got(i);
                 j.far.in.stuck();
                 if (at < all.size()) at += drink(j.far.in, all.data() + at, all.size() - at);
             }
             CHECK(!j.far.in.stuck());
             CHECK_EQ(j.far.in.next(), 10u);
         }},
        {"what the ring of the sender lost is known behind the link",
         [] {
             Joined j({{rows(64)}, 8, 8, false, false, true});
             const uint64_t lost[] = {0, 3, 0, 7, 1};
             for (uint64_t i = 0; i < 5; ++i) {
                 j.near.tx->drop(lost[i]);
                 j.put(i);
             }
             j.talk();
             const Taken t = take(*j.far.rx, 5);
             CHECK_EQ(t.count, 5u);
             for (uint64_t i = 0; i < 5; ++i) CHECK_EQ(t.lane->slab.dropped[t.slot + i].load(), lost[i]);
         }},
        {"the clock of the first sender comes along, also through a second link",
         [] {
             Joined j({{rows(64)}, 8, 8, false, true});
             j.put(0);
             const uint64_t sent = j.near.tx->slab().stamps[0].load();
             j.talk();
             OutLink on(*j.far.rx, j.kind.shapes);
             Home elsewhere;
             Far further(elsewhere, j.kind);
             on.connected(0, 8);
             talk(on, further.in);
             const Taken t = take(*further.rx);
             CHECK_EQ(t.remote(), sent);
             CHECK(t.stamp() > sent);
         }},
        {"a message of the local channel that contradicts itself is missed, and the others come",
         [] {
             Joined j({{shaped(100, 1, 1, 0), rows(8, 1)}, 8, 8, false, false, true});
             for (uint64_t i = 0; i < 3; ++i) j.put(i);  // shaped
             const uint64_t huge = 1ull << 40;
             std::memcpy(j.kind.shapes[0].dims_at(j.near.tx->slab().at(1), j.near.tx->slab().room), &huge, 8);
             Loan loan = lend(*j.near.tx);
             loan.variant = 77;
             j.near.tx->commit(loan, 1);
             j.put(4);
             j.talk();
             CHECK_EQ(j.near.out.corrupted(), 2u);
             j.check_got(0);
             const Taken t = take(*j.far.rx);
             check_message(j.kind.shape(2), t, 0, 2);
             CHECK_EQ(Receiver::missed(t), 1u);
             const Taken last = take(*j.far.rx);
             check_message(j.kind.shape(4), last, 0, 4);
             CHECK_EQ(Receiver::missed(last), 1u);
         }},
        {"by sockets, at full speed in two threads",
         [] {
             const uint64_t many = long_run() ? 5'000'000 : 50'000;
             for (const Kind& kind : {Kind{{rows(64)}, 512, 512}, Kind{{rows(100)}, 64, 100, true, true}, Kind{{shaped(3000, 1, 1)}, 64, 64}}) {
                 Joined j(kind);
                 SocketPair s;
                 std::thread sender = in_thread([&] {
                     for (uint64_t sent = 0; !j.near.out.finished();) {
                         while (sent < many && send(j.kind, *j.near.tx, sent)) ++sent;
                         if (sent == many && j.near.tx) goodbye(j.near.tx);
                         wait_for_socket(s.fd[0], transfer(j.near.out, s.fd[0]), 1);
                     }
                     ::shutdown(s.fd[0], SHUT_WR);
                 });
                 uint64_t got = 0;
                 for (; !j.far.in.finished();) {
                     const short events = transfer(j.far.in, s.fd[1]);
                     Taken t;
                     for (; j.far.rx->try_take(1, t); ++got) {
                         check_message(j.kind.shape(got), t, 0, got);
                         j.far.rx->end(t, false);
                     }
                     wait_for_socket(s.fd[1], events, 1);
                     j.far.in.acknowledge();
                 }
                 sender.join();
                 CHECK_EQ(got, many);
                 CHECK_THROWS(system, "the peer closed the connection", for (;;) transfer(j.far.in, s.fd[1]));
             }
         }},
        {"a broken connection is an error of the system",
         [] {
             Joined j;
             SocketPair s;
             CHECK_EQ(transfer(j.near.out, s.fd[0]), POLLIN);
             ::close(std::exchange(s.fd[1], ::dup(s.fd[0])));
             j.put(0);
             CHECK_THROWS(system, "cannot send", transfer(j.near.out, s.fd[0]));
         }},
    }, long_run() ? 3000 : 50);
}
