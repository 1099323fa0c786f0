#include "support.hpp"

#include <psyne/inspect.hpp>

using namespace psyne;
using namespace psyne::test;

namespace {

ChannelSeen look(const Home& home) { return Inspection(std::move(*find_channel(home.directory, "test"))).look(); }

}  // namespace

TESTS(inspect_test) {
    return check::run({
        {"a stage is seen with what it passed, holds and could take",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc, {{"first"}, {"second", 1}}));
             auto rx = receiver(home, "first");
             for (uint64_t i = 0; i < 6; ++i) put(*tx, i);
             rx->end(take(*rx, 2), false);
             const Taken held = take(*rx);
             const ChannelSeen seen = look(home);
             CHECK_EQ(seen.stages.size(), 2u);
             CHECK_EQ(seen.lanes.size(), 1u);
             const LaneSeen& lane = seen.lanes[0];
             CHECK_EQ(lane.position, 6u);
             CHECK_EQ(lane.capacity, 8u);
             CHECK_EQ(lane.used, 6u);
             CHECK_EQ(lane.join, tx->registry.join());
             CHECK_EQ(lane.stages[0].passed, 2u);
             CHECK_EQ(lane.stages[0].held, 1u);
             CHECK_EQ(lane.stages[0].waiting, 3u);
             CHECK_EQ(lane.stages[0].oldest->position, 2u);
             CHECK_EQ(lane.stages[0].oldest->owner, rx->registry.id);
             CHECK_EQ(lane.stages[1].passed, 0u);
             CHECK_EQ(lane.stages[1].waiting, 2u);
             CHECK_EQ(lane.stages[1].oldest->owner, Registry::kNobody);
             CHECK_EQ(seen.members.size(), 2u);
             CHECK_EQ(seen.members[0].held, 1u);
             rx->end(held, false);
         }},
        {"laps do not matter",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             for (uint64_t i = 0; i < 21; ++i) {
                 put(*tx, i);
                 rx->end(take(*rx), false);
             }
             put(*tx, 21);
             const LaneSeen lane = look(home).lanes[0];
             CHECK_EQ(lane.position, 22u);
             CHECK_EQ(lane.used, 1u);
             CHECK_EQ(lane.stages[0].passed, 21u);
             CHECK_EQ(lane.stages[0].waiting, 1u);
         }},
        {"slabs of a lane are counted together",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc, {{"first"}, {"second", 1}}));
             auto rx = receiver(home, "first");
             for (uint64_t i = 0; i < 6; ++i) put(*tx, i);
             rx->end(take(*rx, 2), false);
             LaneRecord& record = tx->registry.file.lane(tx->registry.id - kMaxReceivers);
             CHECK_EQ(look(home).lanes[0].slabs, 1u);
             CHECK_EQ(look(home).lanes[0].reserved, tx->slab().reserved());
             Slab next = Slab::create(tx->registry.file.storage(), {tx->registry.id - kMaxReceivers, tx->registry.join(), 1, 1},
                                      {64, 64, 16, 2, {}}, 6);
             record.slabs[1].bytes.store(next.reserved());
             record.slabs[1].slab.store(cell_word(tx->registry.join(), 1));
             tx->slab().header->close.store(7);
             for (uint64_t i = 0; i < 3; ++i) next.ready[i].store(word(1, Ready::ready));
             next.row(0)[0].store(word(1, Ack::taken, rx->registry.id));
             LaneSeen lane = look(home).lanes[0];
             CHECK_EQ(lane.slabs, 2u);
             CHECK_EQ(lane.reserved, tx->slab().reserved() + next.reserved());
             CHECK_EQ(lane.capacity, 16u);
             CHECK_EQ(lane.position, 9u);
             CHECK_EQ(lane.used, 9u);
             CHECK_EQ(lane.stages[0].passed, 2u);
             CHECK_EQ(lane.stages[0].held, 1u);
             CHECK_EQ(lane.stages[0].waiting, 6u);
             CHECK_EQ(lane.stages[0].oldest->position, 2u);
             CHECK_EQ(lane.stages[1].waiting, 2u);
             CHECK_EQ(look(home).members[0].held, 1u);
             record.slabs[0].slab.store(0);  // retired
             lane = look(home).lanes[0];
             CHECK_EQ(lane.slabs, 1u);
             CHECK_EQ(lane.used, 3u);
             CHECK_EQ(lane.stages[0].passed, 6u);
             CHECK_EQ(lane.stages[1].passed, 6u);
             CHECK_EQ(lane.stages[0].oldest->position, 6u);
         }},
        {"who looks is no member",
         [] {
             Home home;
             auto tx = sender(home);
             look(home);
             CHECK_EQ(look(home).members.size(), 1u);
         }},
    });
}
