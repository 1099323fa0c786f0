// Members of stages that are in different slabs of a lane, that join in one, or whose stage begins there.
#include "chain.hpp"

using namespace psyne;
using namespace psyne::test;

namespace psyne::test::follow_members {
namespace {

bool over(Receiver& r) { return nothing(r) && r.ended(); }

/// Joins an added stage, which the lane admits at its next position.
std::unique_ptr<Receiver> added(Chain& chain, const Graph::Wanted& wanted) {
    auto rx = open_receiver(chain.home.directory, "test", {wanted.name, &wanted}, Spinner::Mode::block, "test");
    const uint32_t s = rx->registry.me().stage.load(seq_cst);
    const uint64_t generation = generation_in(chain.file.stage(s).word.load(seq_cst));
    if (chain.lane().admitted[s].load(seq_cst) == generation) return rx;
    chain.last().back_row(chain.file.storage(), s);
    chain.lane().from[s].store(chain.next, release);
    chain.lane().admitted[s].store(generation, seq_cst);
    return rx;
}

}  // namespace

TESTS(follow_members_test) {
    return check::run({
        {"members of a shared stage share the messages out over slabs: each one once",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             for (uint64_t p = 0; p < 30; p += 3) {
                 chain.link(1), chain.put();
                 chain.link(2 + p % 5), chain.put(2);
                 CHECK_EQ(take_value(p % 2 ? *a : *b), p);
                 CHECK_EQ(take_value(*a), p + 1);
                 CHECK_EQ(take_value(*b), p + 2);
                 if (p % 2) CHECK(nothing(*a) && nothing(*b));
                 if (p == 12) chain.retire_drained();  // there are 32 places
             }
         }},
        {"a member that lags goes on where its stage is, over slabs that are retired",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.put(4);
             expect(*a, 0, 0);
             expect(*b, 1, 3);
             chain.link(4);
             for (uint64_t p = 4; p < 21; ++p) chain.put(), expect(*b, p, p);  // laps
             chain.link();
             CHECK(nothing(*b));
             chain.put(2);
             CHECK_EQ(chain.retire_drained(), 2u);
             CHECK_EQ(a->there(9), 2u);
             CHECK(chain.home.files().size() == 3);  // channel, slab, acks
             expect(*a, 21, 21);
             expect(*b, 22, 22);
             CHECK(nothing(*a) && nothing(*b));
         }},
        {"also when one of them was found, but is gone when it is to be opened",
         [] {
             Chain chain;
             auto rx = receiver(chain.home), late = receiver(chain.home);
             chain.put();
             chain.link(), chain.put();
             chain.link(), chain.put();
             expect(*rx, 0, 2);
             chain.file.storage().remove(chain.slabs[1].place);  // and here its sender is killed
             chain.put();
             expect(*late, 3, 3);
             auto joiner = receiver(chain.home);
             chain.put();
             expect(*joiner, 4, 4);
         }},
        {"who joins starts in the oldest slab and goes through those that others have read",
         [] {
             Chain chain;
             std::vector<Taken> held;
             auto a = receiver(chain.home);
             for (int slab = 0; slab < 4; ++slab) {
                 chain.put(3);
                 expect(*a, chain.next - 3, chain.next - 3);
                 if (slab == 1) held.push_back(take(*a));
                 else expect(*a, chain.next - 2, chain.next - 2);
                 expect(*a, chain.next - 1, chain.next - 1);
                 chain.link();
             }
             CHECK_EQ(chain.retire_drained(), 3u);
             chain.put(2);
             auto b = receiver(chain.home);
             CHECK_EQ(b->lanes()[0].slab.place.number, 1u);
             expect(*b, 12, 13);
             a->give_back(held[0]);
             CHECK_EQ(take_value(*b), 4u);
         }},
        {"and a single member that joins takes up what the one before it has not taken",
         [] {
             Chain chain(spec(Pattern::spsc));
             chain.put(3), chain.link(), chain.put(3), chain.link(), chain.put(3);
             {
                 auto gone = receiver(chain.home);
                 expect(*gone, 0, 3);
                 goodbye(gone);
             }
             auto rx = receiver(chain.home);
             expect(*rx, 4, 8);
         }},
        {"a stage sees a message of any slab after those before it",
         [] {
             Chain chain(spec(Pattern::mpsc, {{"a"}, {"b", 1}}));
             auto a = receiver(chain.home, "a"), b = receiver(chain.home, "b");
             chain.put(), chain.link(), chain.put(), chain.link(), chain.put();
             for (uint64_t p = 0; p < 3; ++p) {
                 CHECK(nothing(*b));
                 expect(*a, p, p);
                 CHECK_EQ(b->there(9), 1u);
                 expect(*b, p, p);
             }
         }},
        {"one that writes may write in each slab",
         [] {
             Chain chain(spec(Pattern::mpsc, {{"a", 0, true}}));
             auto a = receiver(chain.home, "a");
             for (uint64_t p = 0; p < 3; ++p, chain.link()) {
                 chain.put();
                 const Taken t = take(*a);
                 std::memset(t.data, 0x5a, 64);
                 a->end(t, false);
                 CHECK_EQ(static_cast<int>(chain.last().at(0)[63]), 0x5a);
             }
         }},
        {"an added stage begins in the slab in which its first position lies",
         [] {
             Chain chain;
             chain.put(3), chain.link(), chain.put(2);
             auto main = receiver(chain.home, "main");
             chain.link(16), chain.put(3);
             auto log = added(chain, {"log", {}});
             const uint32_t s = log->registry.me().stage.load(seq_cst);
             chain.last().row(s)[1].store(word(1, Ack::orphan), seq_cst);  // of one that had this row before
             CHECK(nothing(*log));
             CHECK_EQ(log->lanes()[0].slab.place.number, 2u);
             chain.put(2), chain.link(), chain.put(2);
             CHECK_EQ(log->seen().waiting, 4u);
             expect(*log, 8, 8);
             auto second = receiver(chain.home, "log");
             expect(*second, 9, 9);
             expect(*log, 10, 10);
             expect(*main, 0, 9);
             CHECK_EQ(chain.retire_drained(), 3u);
             auto third = receiver(chain.home, "log");
             expect(*third, 11, 11);
             CHECK(nothing(*log) && nothing(*second) && nothing(*third));
         }},
        {"also where it was admitted just before a close",
         [] {
             Chain chain;
             auto main = receiver(chain.home, "main");
             chain.put(3);
             auto early = added(chain, {"early", {}});
             CHECK(nothing(*early));  // is in the first slab
             chain.link();
             auto late = receiver(chain.home, "early");
             CHECK_EQ(early->lanes()[0].slab.place.number, 0u);
             CHECK_EQ(late->lanes()[0].slab.place.number, 1u);
             chain.put();
             expect(*early, 3, 3);
             chain.put();
             expect(*late, 4, 4);
             chain.end();
             CHECK(over(*early) && over(*late) && !main->ended());
         }},
        {"stages that are added later hold up those after them only from their first slab on",
         [] {
             Chain chain;
             auto main = receiver(chain.home, "main");
             chain.put(2), chain.link(), chain.put();
             auto log = added(chain, {"log", {}});
             chain.put();
             auto last = added(chain, {"last", {}, true, true});
             expect(*main, 0, 3);
             chain.put(), chain.link(), chain.put();
             expect(*main, 4, 5);
             expect(*log, 3, 3);
             CHECK(nothing(*last));
             expect(*log, 4, 4);
             expect(*last, 4, 4);
             CHECK(nothing(*last));
             expect(*log, 5, 5);
             expect(*last, 5, 5);
         }},
    });
}

}  // namespace psyne::test::follow_members
