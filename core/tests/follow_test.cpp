// Receivers that follow a lane from slab to slab.
#include "chain.hpp"
#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace psyne::test::follow {
namespace {

constexpr auto kShared = Pattern::mpmc;

bool over(Receiver& r) { return nothing(r) && r.ended(); }

uint64_t take_batch(Receiver& r, uint64_t limit) {
    const Taken t = take(r, limit);
    r.end(t, false);
    return t.count;
}

std::unique_ptr<Bell> armed(Receiver& rx) {
    const FifoPlace place = rx.registry.file.storage().fifos();
    auto bell = std::make_unique<Bell>(place.directory, bell_name(place.prefix, rx.registry.join()));
    rx.arm(*bell, true);
    return bell;
}

}  // namespace

TESTS(follow_test) {
    return check::run({
        {"a receiver reads on in the next slab, whatever the position of the close and the slots of the slabs",
         [] {
             for (const uint64_t last : {1, 7, 8, 9, 13, 16, 17}) {
                 Chain chain(spec(Pattern::mpsc));
                 auto rx = receiver(chain.home);
                 for (uint64_t p = 0; p < last; ++p) chain.put(), expect(*rx, p, p);
                 for (const uint64_t slots : {3, 64, 1}) {
                     const uint64_t first = chain.next;
                     chain.link(slots);
                     for (uint64_t i = 0; i < last; ++i) chain.put(), expect(*rx, first + i, first + i);
                     CHECK(nothing(*rx));
                 }
                 chain.end();
                 CHECK(over(*rx));
             }
         }},
        {"what was sent before a close is read first, and slabs without any message are passed",
         [] {
             for (const Pattern pattern : {Pattern::mpsc, kShared}) {
                 Chain chain{spec(pattern)};
                 auto rx = receiver(chain.home);
                 chain.link(), chain.link();  // the first two at position 0
                 chain.put(5);
                 chain.link(2), chain.link(4);
                 chain.put(3), chain.skip();
                 chain.link();
                 chain.put(2);
                 expect(*rx, 0, 7);
                 expect(*rx, 9, 10);
                 CHECK(nothing(*rx));
             }
         }},
        {"a position that is not published yet holds up those in the next slab",
         [] {
             Chain chain;
             auto rx = receiver(chain.home);
             chain.put(2);
             chain.leave_open();
             chain.link();
             chain.put(2);
             expect(*rx, 0, 1);
             CHECK(nothing(*rx));
             CHECK_EQ(rx->there(9), 0u);
             Slab& first = chain.slabs[0];
             const uint64_t v = 2;
             std::memcpy(first.at(2), &v, 8);
             first.ready[2].store(word(1, Ready::ready), release);
             expect(*rx, 2, 4);
         }},
        {"a lane keeps its place among the lanes that take turns",
         [] {
             Chain chain;
             auto other = sender(chain.home, spec(kShared));
             auto rx = receiver(chain.home);
             chain.put();
             chain.link();
             chain.put(), chain.link();
             chain.put();
             for (uint64_t i = 0; i < 3; ++i) put(*other, 100 + i);
             for (uint64_t i = 0; i < 3; ++i) {
                 CHECK_EQ(take_value(*rx), i);
                 CHECK_EQ(take_value(*rx), 100 + i);
             }
             CHECK_EQ(rx->lanes().size(), 2u);
         }},
        {"and what was sent first comes first, in whatever slab it lies",
         [] {
             Chain chain(spec(kShared), {.stamps = true});
             auto other = sender(chain.home, spec(kShared), {.stamps = true});
             auto rx = receiver(chain.home);
             rx->oldest_first = true;
             put(*other, 100);  // at a time far behind those of the chain
             chain.put();
             chain.link();
             chain.put();
             chain.link();
             chain.put();
             expect(*rx, 0, 2);
             CHECK_EQ(take_value(*rx), 100u);
         }},
        {"a batch ends at a close, and so does lingering for one",
         [] {
             Chain chain(spec(Pattern::mpsc));
             auto rx = receiver(chain.home);
             chain.put(3);
             chain.link();
             chain.put(4);
             CHECK_EQ(rx->there(100), 3u);
             Taken t = take(*rx, 100);
             CHECK_EQ(t.count, 3u);
             CHECK(rx->linger(t, 100, kForever, keep_going));
             CHECK_EQ(t.count, 3u);
             rx->end(t, false);
             CHECK_EQ(rx->there(100), 4u);
             t = take(*rx, 100);
             CHECK_EQ(t.count, 4u);
             CHECK_EQ(value_of(t), 3u);
             std::thread later([&] { chain.link(); });
             CHECK(rx->linger(t, 100, kForever, keep_going));
             later.join();
             CHECK_EQ(t.count, 4u);
         }},
        {"who sleeps at a close is woken by the first message of the next slab",
         [] {
             Chain chain;
             auto rx = receiver(chain.home);
             std::thread waiting = in_thread([&] { CHECK_EQ(receive_value(*rx), 0u); });
             until_asleep(idle(rx->registry), 1);
             chain.link();
             chain.put();
             chain.tx->registry.wake_stage(0);
             waiting.join();
             CHECK_EQ(late_wakes(rx->registry), 0u);
         }},
        {"a wake for it that is lost is seen, and counted; a slab without messages is no lost wake",
         [] {
             Chain chain;
             auto rx = receiver(chain.home);
             const auto bell = armed(*rx);
             CHECK_EQ(rx->slice(), uint64_t{kSlice});
             chain.link(), chain.link();
             CHECK_EQ(rx->slice(), uint64_t{kSlice});
             CHECK_EQ(rx->slice(), uint64_t{kSlice});
             chain.link();
             chain.put();
             CHECK_EQ(rx->slice(), uint64_t{kLateSlice});
             CHECK_EQ(late_wakes(rx->registry), 0u);
             CHECK_EQ(rx->slice(), 0u);
             CHECK_EQ(late_wakes(rx->registry), 1u);
             rx->disarm(true);
             expect(*rx, 0, 0);
         }},
        {"a member that takes the last message before a close wakes a colleague for the next slab",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             const auto bell = armed(*b);
             chain.put();
             chain.link();
             chain.put();
             expect(*a, 0, 0);
             CHECK(!b->standby().asleep());
             CHECK_EQ(b->there(9), 1u);
         }},
        {"and who got up for something else passes a wake on for what lies there",
         [] {
             Chain chain;
             auto a = receiver(chain.home), b = receiver(chain.home);
             chain.link();
             chain.put();
             const auto bell = armed(*b);
             a->pass_on();
             CHECK(!b->standby().asleep());
         }},
        {"a damaged slab is an error for who takes, and no harm to who only looks",
         [] {
             Chain chain;
             auto rx = receiver(chain.home);
             chain.link().header->shape.magic = 1;
             rx->registry.file.stage(0).idle.store(1ull << 63, seq_cst);
             rx->pass_on();
             CHECK_EQ(rx->seen().capacity, 8u);
             CHECK_THROWS(incompatible, "foreign headers", nothing(*rx));
             CHECK_THROWS(incompatible, "foreign headers", rx->there(1));
             chain.last().header->shape.magic = kSlabMagic;
             chain.put();
             expect(*rx, 0, 0);
         }},
        {"a close that makes no sense harms nobody",
         [] {
             for (const uint64_t close : std::initializer_list<uint64_t>{1, 2, 3, 7, 1ull << 60, ~0ull}) {
                 Chain chain;
                 auto rx = receiver(chain.home), other = receiver(chain.home);
                 chain.put(4);
                 expect(*rx, 0, 1);
                 chain.slabs[0].header->close.store(close, seq_cst);
                 expect(*rx, 2, 3);
                 CHECK(nothing(*rx) && nothing(*other));
                 CHECK(!rx->ended());
                 chain.lose(rx->registry);
                 (void)nothing(*rx), (void)rx->ended(), (void)rx->seen();
                 rx->look_after_others();
             }
         }},
        {"a message in an extent comes alone, with the room that it has",
         [] {
             Chain chain(spec(Pattern::mpsc));
             auto rx = receiver(chain.home);
             chain.put();
             Slab& slab = chain.link(8, 100'000);
             chain.put(2);
             slab.back_extent(chain.file.storage(), 2, 90'000);
             slab.extents[2].store(90'000, relaxed);
             chain.put(3);
             expect(*rx, 0, 0);
             CHECK_EQ(rx->there(9), 2u);
             CHECK_EQ(take_batch(*rx, 9), 2u);
             CHECK_EQ(rx->there(9), 1u);
             Taken t = take(*rx, 9);
             CHECK_EQ(t.count, 1u);
             CHECK_EQ(value_of(t), 3u);
             CHECK_EQ(t.room(), 90'000u);
             CHECK(t.data != t.lane->slab.at(2));
             CHECK(rx->linger(t, 9, sys::now_ns(), keep_going));
             CHECK_EQ(t.count, 1u);
             slab.extents[2].store(kGone | ~0ull, seq_cst);  // damaged
             CHECK_EQ(t.room(), slab.extent_stride());
             rx->end(t, false);
             t = take(*rx, 9);
             CHECK_EQ(t.count, 2u);
             CHECK_EQ(t.room(), 64u);
             rx->end(t, false);
         }},
        {"statistics count what waits in all slabs, and what is held in those that were passed",
         [] {
             Chain chain;
             auto rx = receiver(chain.home), other = receiver(chain.home);
             chain.put(5), chain.link(4), chain.put(3), chain.skip(), chain.link(16), chain.put(2);
             Lanes::Seen seen = rx->seen();
             CHECK_EQ(seen.waiting, 10u);
             CHECK_EQ(seen.capacity, 28u);
             CHECK_EQ(seen.held, 0u);
             const Taken t = take(*rx, 2);
             expect(*rx, 2, 5);
             seen = rx->seen();
             CHECK_EQ(seen.waiting, 4u);
             CHECK_EQ(seen.capacity, 20u);
             CHECK_EQ(seen.held, 2u);
             CHECK_EQ(other->seen().waiting, 4u);
             rx->end(t, false);
             CHECK_EQ(rx->seen().held, 0u);
             CHECK_EQ(chain.retire_drained(), 1u);
             CHECK_EQ(rx->seen().waiting, 4u);
             expect(*rx, 6, 7), expect(*rx, 9, 10);
         }},
        {"who holds every slot of a lane that grows is not told so: its sender makes more",
         [] {
             Chain chain;
             auto rx = receiver(chain.home);
             chain.put(8);
             const Taken t = take(*rx, 8);
             CHECK_EQ(t.count, 8u);
             CHECK(!rx->hoards());
             chain.lane().grows.store(0, seq_cst);
             CHECK(rx->hoards());
             rx->end(t, false);
         }},
    });
}

}  // namespace psyne::test::follow
