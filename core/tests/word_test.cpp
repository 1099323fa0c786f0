#include "check.hpp"

#include <psyne/word.hpp>

using namespace psyne;

TESTS(word_test) {
    return check::run({
        {"zeroed memory says that nothing was published and all is done",
         [] {
             CHECK_EQ(lap_of(0), 0u);
             CHECK_EQ(ready_of(0), Ready::none);
             CHECK_EQ(ack_of(0), Ack::done);
             CHECK(let_go(0, 0, Next::writes));
             CHECK(!let_go(0, 1, Next::reads));
         }},
        {"lap, state, flags and owner lie apart",
         [] {
             const uint64_t w = word(kMaxLap, Ack::orphan, 0xffff) | kDirty | kDrop | kDeaths;
             CHECK_EQ(lap_of(w), kMaxLap);
             CHECK_EQ(ack_of(w), Ack::orphan);
             CHECK_EQ(owner_of(w), 0xffffu);
             CHECK_EQ(deaths_of(w), 3u);
             const uint64_t bare = word(5, Ready::skip);
             CHECK_EQ(ready_of(bare), Ready::skip);
             CHECK_EQ(lap_of(bare), 5u);
             CHECK_EQ(owner_of(bare), 0u);
             CHECK_EQ(bare & (kDirty | kDrop | kDeaths), 0u);
         }},
        {"deaths count up without touching their neighbours",
         [] {
             uint64_t w = word(7, Ack::orphan) | kDirty;
             for (uint64_t n = 1; n <= kMaxDeaths; ++n) {
                 w += kDeath;
                 CHECK_EQ(deaths_of(w), n);
                 CHECK_EQ(ack_of(w), Ack::orphan);
                 CHECK_EQ(lap_of(w), 7u);
                 CHECK((w & kDirty) != 0 && (w & kDrop) == 0);
             }
         }},
        {"who reads goes on at PASSED, who writes waits for DONE",
         [] {
             CHECK(let_go(word(3, Ack::passed, 9), 3, Next::reads));
             CHECK(!let_go(word(3, Ack::passed, 9), 3, Next::writes));
             CHECK(let_go(word(3, Ack::done), 3, Next::writes));
             CHECK(let_go(word(3, Ack::done) | kDrop, 3, Next::writes));
         }},
        {"taken and orphaned messages are let go by nobody",
         [] {
             for (const Next next : {Next::reads, Next::writes}) {
                 CHECK(!let_go(word(3, Ack::taken, 9), 3, next));
                 CHECK(!let_go(word(3, Ack::orphan), 3, next));
                 CHECK(!let_go(word(2, Ack::done), 3, next));
             }
         }},
        {"a later lap says that the earlier one was let go, whatever its state",
         [] {
             for (const Ack a : {Ack::done, Ack::taken, Ack::passed, Ack::orphan})
                 CHECK(let_go(word(4, a, 1), 3, Next::writes));
         }},
        {"a cursor walks the ring forth and back",
         [] {
             for (const uint64_t capacity : {1u, 2u, 3u, 8u}) {
                 Cursor c;
                 for (uint64_t p = 0; p < 5 * capacity; ++p) {
                     const Cursor want = Cursor::at(p, 0, capacity);
                     CHECK_EQ(c.position, want.position);
                     CHECK_EQ(c.slot, want.slot);
                     CHECK_EQ(c.lap, want.lap);
                     c.advance(capacity);
                 }
             }
         }},
        {"a cursor advances by runs up to the end of the lap",
         [] {
             Cursor c = Cursor::at(13, 5, 6);  // slot 2 of lap 2
             CHECK_EQ(c.slot, 2u);
             CHECK_EQ(c.lap, 2u);
             c.advance(6, 4);
             CHECK_EQ(c.slot, 0u);
             CHECK_EQ(c.lap, 3u);
             CHECK_EQ(c.position, 17u);
         }},
    });
}
