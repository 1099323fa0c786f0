// What is held, comes back or has ended in slabs of a lane: those that were passed, and those before the last.
#include "chain.hpp"
#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace psyne::test::follow_end {
namespace {

constexpr auto kShared = Pattern::mpmc;

bool over(Receiver& r) { return nothing(r) && r.ended(); }

/// How often this process maps the memory of a slab.
uint64_t mappings(const Chain& chain, uint64_t number) {
    const std::string name = "." + std::to_string(chain.join()) + "." + std::to_string(number) + ".slab";
    std::ifstream maps("/proc/self/maps");
    uint64_t n = 0;
    for (std::string line; std::getline(maps, line);)
        n += line.find(chain.home.path) != std::string::npos && line.find(name) != std::string::npos;
    return n;
}

}  // namespace

TESTS(follow_end_test) {
    return check::run({
        {"what is held in a slab that was passed stays as it is, and the slab goes when nothing is held there any more",
         [] {
             if (kThreadSanitizer) return;  // one mapping for all: see one_mapping.hpp
             Chain chain(spec(Pattern::mpsc));
             const uint64_t without = mappings(chain, 0);
             auto rx = receiver(chain.home);
             chain.put(3);
             const Taken a = take(*rx), b = take(*rx), c = take(*rx);
             chain.link(), chain.put(), chain.link(), chain.put();
             expect(*rx, 3, 4);
             rx->end(a, false), rx->end(c, true);
             rx->look_after_others();
             CHECK_EQ(mappings(chain, 0), without + 1);
             CHECK_EQ(rx->outstanding(), 2u);
             CHECK_EQ(value_of(b), 1u);
             rx->end(b, false);
             rx->look_after_others();
             CHECK_EQ(value_of(c), 2u);  // a view lives
             rx->finish(c);
             rx->look_after_others();
             CHECK_EQ(mappings(chain, 0), without);
             CHECK_EQ(mappings(chain, 1), 0u);
             CHECK_EQ(rx->outstanding(), 0u);
         }},
        {"a member keeps a slab as long as a message may come back to it, and views of colleagues do not count",
         [] {
             if (kThreadSanitizer) return;
             Chain chain;
             const uint64_t without = mappings(chain, 0);
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put(2);
             const Taken t = take(*b);
             expect(*a, 1, 1);
             chain.link(), chain.put();
             expect(*a, 2, 2);
             a->look_after_others();
             CHECK_EQ(mappings(chain, 0), without + 2);
             b->end(t, true);
             a->look_after_others();
             CHECK_EQ(mappings(chain, 0), without + 1);
             b->finish(t);
             chain.put();
             expect(*b, 3, 3);
             CHECK_EQ(mappings(chain, 0), without);
         }},
        {"who waits and gets nothing lets slabs go all the same",
         [] {
             if (kThreadSanitizer) return;
             Chain chain;
             const uint64_t without = mappings(chain, 0);
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put();
             const Taken t = take(*b);
             chain.link();
             std::thread waiting = in_thread([&] { CHECK_EQ(receive_value(*a), 1u); });
             until_asleep(idle(a->registry), 1);
             b->end(t, false);
             while (mappings(chain, 0) != without + 1) ::sched_yield();  // b is not told that there is a close
             chain.put();
             chain.tx->registry.wake_stage(0);
             waiting.join();
         }},
        {"what a killed member held in a slab that was passed comes back, flagged",
         [] {
             Chain chain;
             auto a = receiver(chain.home);
             chain.put(3);
             auto gone = receiver(chain.home);
             take(*gone);
             expect(*a, 1, 2);
             chain.link(), chain.put(), chain.link(), chain.put();
             expect(*a, 3, 4);
             gone.reset();
             CHECK_EQ(a->there(9), 0u);
             CHECK(a->registry.bury_dead());
             CHECK_EQ(chain.retire_drained(), 1u);
             CHECK_EQ(a->there(9), 1u);
             const Taken t = take(*a, 9);
             CHECK_EQ(value_of(t), 0u);
             CHECK_EQ(t.count, 1u);
             CHECK_EQ(t.deaths, 1u);
             a->end(t, false);
             CHECK_EQ(chain.retire_drained(), 1u);
         }},
        {"and what it held in a slab that nobody else has come to yet",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put();
             auto gone = receiver(chain.home);
             expect(*gone, 0, 0);
             chain.link(), chain.put();
             expect(*gone, 1, 1);
             chain.link(), chain.put(), chain.link(), chain.put();
             take(*gone);
             expect(*gone, 3, 3);
             gone.reset();
             CHECK(a->registry.bury_dead());
             CHECK_EQ(b->there(9), 1u);
             const Taken t = take(*a, 9);
             CHECK_EQ(value_of(t), 2u);
             CHECK_EQ(t.deaths, 1u);
             a->end(t, false);
             CHECK(nothing(*a) && nothing(*b));
         }},
        {"what is given back in a slab that was passed goes to another member, without a flag",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put(3);
             const Taken t = take(*a, 2);
             expect(*b, 2, 2);
             chain.link(), chain.put();
             expect(*a, 3, 3);
             CHECK(nothing(*b));
             a->give_back(t);
             CHECK_EQ(a->outstanding(), 0u);
             Taken u = take(*b, 9);
             CHECK_EQ(value_of(u), 0u);
             CHECK_EQ(u.deaths, 0u);
             b->end(u, false);
             u = take(*a, 9);
             CHECK_EQ(value_of(u), 1u);
             chain.slabs[0].ready[3].store(word(1, Ready::ready), seq_cst);  // nothing is behind a close
             CHECK(a->linger(u, 9, kForever, keep_going));
             CHECK_EQ(u.count, 1u);
             a->end(u, false);
         }},
        {"an ended lane is over where its last slab is",
         [] {
             for (const uint64_t in_last : {0, 1, 8}) {
                 Chain chain(spec(Pattern::mpsc));
                 auto rx = receiver(chain.home);
                 chain.put(3), chain.link(), chain.put(2), chain.link(), chain.put(in_last);
                 chain.end();
                 for (uint64_t p = 0; p < chain.next; ++p) {
                     CHECK(!rx->ended());
                     expect(*rx, p, p);
                 }
                 CHECK(over(*rx));
                 CHECK(!rx->sender_lost());
             }
         }},
        {"the end waits for what another member works on in a slab that was passed, and for what comes back there",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put(2);
             const Taken ta = take(*a), tb = take(*b);
             chain.link(), chain.put();
             expect(*a, 2, 2);
             chain.end();
             CHECK(nothing(*a) && !a->ended());
             b->give_back(tb);
             CHECK(!a->ended());
             expect(*a, 1, 1);
             CHECK(!over(*b));  // a may still hand its first message back,
             a->end(ta, true);  // but not a view
             CHECK(over(*a) && over(*b));
             a->finish(ta);
         }},
        {"and for what another member works on in a slab that one has not come to",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put(2);
             expect(*a, 0, 0);
             expect(*b, 1, 1);
             chain.link(), chain.put(), chain.link();
             const Taken t = take(*b);
             chain.end();
             CHECK(nothing(*a) && !a->ended());
             b->end(t, false);
             CHECK(over(*a));
         }},
        {"a lane that is removed is over for who still stands in a slab before the last",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put(2), chain.link(), chain.put();
             expect(*b, 0, 2);
             chain.end();
             b->registry.reap();
             CHECK_EQ(chain.home.files().size(), 1u);
             CHECK(over(*a) && over(*b));
             a->look_after_others();
             CHECK_EQ(a->lanes().size(), 0u);
         }},
        {"holes that a dead sender left before a close are passed over, then the next slab is read",
         [] {
             for (const uint64_t before : {0, 1, 6, 7})
                 for (const uint64_t holes : {1, 2, 8}) {
                     Chain chain(spec(kShared));
                     auto a = receiver(chain.home), b = receiver(chain.home);
                     chain.put(before);
                     if (before != 0) expect(*a, 0, before - 1);
                     chain.leave_open(holes);
                     chain.link(), chain.put();
                     chain.leave_open(2), chain.put(), chain.leave_open(1);
                     chain.link(), chain.put(), chain.leave_open(3);
                     CHECK(nothing(*a) && nothing(*b));
                     chain.lose(a->registry);
                     const uint64_t first = before + holes;
                     expect(*b, first, first);
                     expect(*a, first + 3, first + 3);
                     expect(*b, first + 5, first + 5);
                     CHECK(over(*a) && over(*b));
                     CHECK(a->sender_lost());
                     CHECK_EQ(a->there(9), 0u);
                 }
         }},
        {"every stage passes the same holes",
         [] {
             Chain chain(spec(Pattern::mpsc, {{"a"}, {"b", 1}}));
             auto a = receiver(chain.home, "a"), b = receiver(chain.home, "b");
             chain.leave_open(), chain.put(), chain.leave_open(2);
             chain.link(), chain.leave_open();
             chain.link(), chain.put();
             chain.lose(a->registry);
             for (const uint64_t p : {1, 5}) {
                 CHECK(nothing(*b) && !b->ended());
                 expect(*a, p, p);
                 expect(*b, p, p);
             }
             CHECK(over(*a) && over(*b));
         }},
        {"a slab that no close leads to was never in its lane",
         [] {
             for (const bool lost : {false, true}) {
                 Chain chain;
                 auto rx = receiver(chain.home);
                 chain.put(3);
                 chain.make();
                 expect(*rx, 0, 2);
                 CHECK(nothing(*rx) && !rx->ended());
                 CHECK_EQ(rx->seen().capacity, 8u);
                 lost ? chain.lose(rx->registry) : chain.end();
                 CHECK(over(*rx));
                 CHECK_EQ(rx->lanes()[0].slab.place.number, 0u);
             }
         }},
        {"nor is one that is full, and open, read beyond its words",
         [] {
             Chain chain;
             auto rx = receiver(chain.home);
             chain.put(8);
             expect(*rx, 0, 7);
             CHECK(nothing(*rx));
             chain.link();
             chain.lose(rx->registry);
             CHECK(over(*rx));
             CHECK_EQ(rx->lanes()[0].slab.place.number, 1u);
         }},
    });
}

}  // namespace psyne::test::follow_end
