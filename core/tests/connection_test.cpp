// Connections whose bytes somebody else moves, as TLS has it: what they wait for, and when.
#include "carried.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// A connection of which a test carries the bytes.
struct Carried {
    Home home;
    Host a, b;
    Local near, far;
    std::unique_ptr<Sender> tx;
    Wire wire;
    std::unique_ptr<Receiver> rx;
    explicit Carried(Kind kind = {})
        : near(home, "near", kind), far(home, "far", kind), tx(near.sender()), wire(near, far, *a.gateway, *b.gateway), rx(far.receiver()) {
        const std::scoped_lock guard(wire.in->lock, wire.out->lock);  // the pumps look at them, too
        wire.in->connect({}, 0, 0);
        wire.out->connect({}, 0, kind.far_capacity);
    }
    void carry() {
        for (bool moved = true; moved;) {
            moved = false;
            for (auto [from, to] : {std::pair(wire.out.get(), wire.in.get()), std::pair(wire.in.get(), wire.out.get())}) {
                const Bytes bytes = pour_all(from->link());
                for (size_t at = 0; at < bytes.size(); moved = true) {
                    const std::span<std::byte> room = to->link().buffer();
                    const size_t n = std::min(room.size(), bytes.size() - at);
                    std::memcpy(room.data(), bytes.data() + at, n);
                    to->arrived(n);
                    at += n;
                }
            }
        }
    }
    void send(uint64_t number) { CHECK(test::send(near.kind, *tx, number)); }
};

}  // namespace

TESTS(connection_test) {
    return check::run({
        {"who moves the bytes himself has a bell, where others are kicked too",
         [] {
             Carried c;
             for (uint64_t n = 0; n < 20; ++n) {
                 c.carry();
                 const int bell = c.wire.out->settle();
                 CHECK(bell >= 0);
                 CHECK(!c.a.gateway->asleep());
                 CHECK(!readable(bell, 0));
                 c.send(n);
                 CHECK(readable(bell, -1));
                 c.carry();
                 check_next(c.far.kind, *c.rx, n);
             }
         }},
        {"what came just before it settled is looked at now",
         [] {
             Carried c;
             c.carry();
             c.send(0);
             CHECK_EQ(c.wire.out->settle(), -1);
             CHECK(c.wire.out->due() <= sys::now_ns());
         }},
        {"an acknowledgement that nobody causes is due, and then told",
         [] {
             Carried c;
             c.carry();
             c.send(0);
             c.carry();
             c.wire.in->settle();
             CHECK(c.wire.in->due() != kForever);
             check_next(c.far.kind, *c.rx, 0);
             while (c.tx->occupied() != 0) {
                 while (sys::now_ns() < c.wire.in->due()) ::sched_yield();
                 c.wire.in->settle();
                 c.carry();
             }
             c.wire.in->settle();
             CHECK_EQ(c.wire.in->due(), kForever);
         }},
        {"while a message is held the looks become rare",
         [] {
             Carried c;
             c.carry();
             c.send(0);
             c.carry();
             const Taken kept = take(*c.rx);
             uint64_t before = 0, due = 0;
             for (int i = 0; i < 6; ++i) {
                 c.wire.in->settle();
                 before = std::exchange(due, c.wire.in->due());
                 while (sys::now_ns() < due) ::sched_yield();
             }
             CHECK(due - before >= 10'000'000);
             c.rx->end(kept, false);
         }},
        {"a link is over once the peer was told that its last word was understood",
         [] {
             Carried c;
             c.carry();
             goodbye(c.tx);
             Connection &out = *c.wire.out, &in = *c.wire.in;
             drink_all(in.link(), pour_all(out.link()));  // END
             CHECK(in.over() == nullptr);
             drink_all(out.link(), pour_all(in.link()));  // BYE
             CHECK_EQ(std::string(in.over()), "closed");
             CHECK(out.over() == nullptr);
             drink_all(in.link(), pour_all(out.link()));  // and the answer
             CHECK_EQ(std::string(out.over()), "understood");
             CHECK(in.finished() && out.finished());
         }},
    });
}
