// A channel as it looks from outside: who is in it, how far each stage has come, who holds what. Joins nothing.
//
// The words of a running channel change while they are read, so the numbers are those of about one moment. For one
// stage each published message of a lane is one of these:
//
//   passed            held              waiting                     none of these
//   DONE or PASSED    TAKEN by a member may be taken, or an orphan  a stage before has it still
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <psyne/registry.hpp>

namespace psyne {

/// A message that a stage has not passed.
struct OldestSeen {
    uint64_t position = 0;
    uint64_t stamp = 0;                   // when it was sent, or 0: its sender keeps no time
    uint64_t owner = Registry::kNobody;  // the id of the member that holds it
};

/// One stage in one lane.
struct StageSeen {
    uint64_t passed = 0, held = 0, waiting = 0;
    std::optional<OldestSeen> oldest;
};

/// The ring of one sender.
struct LaneSeen {
    uint64_t id = 0, join = 0;  // of its sender
    LaneState state = LaneState::free;
    uint64_t position = 0;  // published so far, skipped ones too
    uint64_t capacity = 0;
    uint64_t used = 0;  // slots that a stage has not let go
    std::vector<StageSeen> stages;
};

struct MemberSeen {
    uint64_t id = 0, join = 0, pid = 0;
    std::string program;
    uint32_t stage = 0;  // of a receiver
    bool alive = false;
    uint64_t held = 0;  // messages that a receiver has taken and not ended
};

struct ChannelSeen {
    std::vector<MemberSeen> members;
    std::vector<LaneSeen> lanes;
};

class Inspection {
public:
    explicit Inspection(ChannelFile opened) : looker_(std::move(opened), "") {}

    const ChannelFile& file() const noexcept { return looker_.file; }
    uint32_t stage_count() const noexcept { return file().shape.stage_count; }

    ChannelSeen look() const {
        ChannelSeen seen;
        for (uint64_t i = 0; i < kMaxMembers; ++i) {
            if (!looker_.present(i)) continue;
            const MemberRecord& r = file().member(i);
            seen.members.push_back({i, count_in(r.state.load(seq_cst)), r.pid.load(relaxed), load_name(r.name),
                                    r.stage.load(relaxed), !looker_.dead(i), 0});
        }
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t w = file().lane(i).state.load(seq_cst);
            if (state_in<LaneState>(w) == LaneState::free) continue;
            const Slab slab = Slab::attach(file().storage(), count_in(w), file().shape.payload_bytes, false, sys::Populate::no);
            if (slab) seen.lanes.push_back(lane(slab, i, w, seen.members));
        }
        return seen;
    }

private:
    Registry looker_;

    LaneSeen lane(const Slab& slab, uint64_t index, uint64_t w, std::vector<MemberSeen>& members) const {
        LaneSeen seen{kMaxReceivers + index, count_in(w), state_in<LaneState>(w), slab.first, slab.capacity, 0, {}};
        std::vector<bool> used(slab.capacity);
        for (uint64_t s = 0; s < slab.capacity; ++s)
            if (const uint64_t lap = lap_of(slab.ready[s].load(acquire)); lap != 0)
                seen.position = std::max(seen.position, slab.position(s, lap) + 1);
        for (uint32_t i = 0; i < stage_count() && i < slab.stages; ++i)
            seen.stages.push_back(stage(slab, i, seen.position, used, members));
        seen.used = static_cast<uint64_t>(std::count(used.begin(), used.end(), true));
        return seen;
    }

    StageSeen stage(const Slab& slab, uint32_t index, uint64_t position, std::vector<bool>& used,
                    std::vector<MemberSeen>& members) const {
        StageSeen seen;
        uint64_t left = 0;
        for (uint64_t s = 0; s < slab.capacity; ++s) {
            const uint64_t ready = slab.ready[s].load(acquire), lap = lap_of(ready);  // PUBLISH
            const uint64_t own = slab.row(index)[s].load(acquire);
            if (ready_of(ready) != Ready::ready || slab.position(s, lap) >= position) continue;
            if (!let_go(own, lap, Next::writes)) used[s] = true;
            if (let_go(own, lap, Next::reads)) continue;
            ++left;
            OldestSeen message{slab.position(s, lap), slab.stamps ? slab.stamps[s].load(relaxed) : 0};
            if (lap_of(own) == lap && ack_of(own) == Ack::taken) {
                ++seen.held;
                message.owner = owner_of(own);
                for (MemberSeen& m : members) m.held += m.id == message.owner;
            } else if (lap_of(own) == lap || let_go_before(slab, index, s, lap)) {
                ++seen.waiting;
            }
            if (!seen.oldest || message.position < seen.oldest->position) seen.oldest = message;
        }
        seen.passed = position - slab.first - left;
        return seen;
    }

    /// Have the stages that this one waits for let go this slot?
    bool let_go_before(const Slab& slab, uint32_t index, uint64_t slot, uint64_t lap) const noexcept {
        const StageRecord& r = file().stage(index);
        const bool writes = r.mutates != 0;
        const uint32_t before = writes ? r.ancestors : r.after;
        for (uint32_t i = 0; i < stage_count() && i < slab.stages; ++i)
            if (before >> i & 1 && !let_go(slab.row(i)[slot].load(acquire), lap, writes ? Next::writes : Next::reads)) return false;
        return true;
    }
};

}  // namespace psyne
