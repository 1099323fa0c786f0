// A channel as it looks from outside: who is in it, how far each stage has come, who holds what. Joins nothing.
//
// The words of a running channel change while they are read, so the numbers are those of about one moment. For one
// stage each published message of a lane is one of these:
//
//   passed            held              waiting                     none of these
//   DONE or PASSED    TAKEN by a member may be taken, or an orphan  a stage before has it still
#pragma once

#include <algorithm>
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

/// The ring of one sender: one slab, or several while it changes.
struct LaneSeen {
    uint64_t id = 0, join = 0;  // of its sender
    LaneState state = LaneState::free;
    uint64_t position = 0;  // published so far, skipped ones too
    uint64_t capacity = 0;  // slots of the newest slab
    uint64_t used = 0;      // slots that a stage has not let go, of all slabs
    uint64_t slabs = 0;     // that are there
    uint64_t reserved = 0;  // bytes of shared memory
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
    std::vector<uint32_t> stages;  // declared and added: their records' numbers, in the order of LaneSeen.stages
    std::vector<MemberSeen> members;
    std::vector<LaneSeen> lanes;
};

class Inspection {
public:
    explicit Inspection(ChannelFile opened) : looker_(std::move(opened), "") {}

    const ChannelFile& file() const noexcept { return looker_.file; }

    ChannelSeen look() const {
        ChannelSeen seen;
        each_bit(looker_.graph().all(), [&](uint32_t s) { seen.stages.push_back(s); });
        for (uint64_t i = 0; i < kMaxMembers; ++i) {
            if (!looker_.present(i)) continue;
            const MemberRecord& r = file().member(i);
            seen.members.push_back({i, count_in(r.state.load(seq_cst)), r.pid.load(relaxed), load_name(r.name),
                                    r.stage.load(relaxed), !looker_.dead(i), 0});
        }
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t w = file().lane(i).state.load(seq_cst);
            if (state_in<LaneState>(w) == LaneState::free) continue;
            std::vector<Slab> slabs;
            for (const SlabPlace& place : slabs_of(file().lane(i), i, count_in(w)))
                if (Slab slab = Slab::attach(file().storage(), place, file().shape.payload_bytes, false, sys::Populate::no); slab)
                    slabs.push_back(std::move(slab));
            if (!slabs.empty()) seen.lanes.push_back(lane(slabs, i, w, seen));
        }
        return seen;
    }

private:
    Registry looker_;

    LaneSeen lane(const std::vector<Slab>& slabs, uint64_t index, uint64_t w, ChannelSeen& channel) const {
        const LaneRecord& record = file().lane(index);
        LaneSeen seen;
        seen.id = kMaxReceivers + index;
        seen.join = count_in(w);
        seen.state = state_in<LaneState>(w);
        seen.position = slabs.front().first;
        seen.capacity = slabs.back().capacity;
        seen.slabs = slabs.size();
        seen.stages.resize(channel.stages.size());
        for (const SlabCell& cell : record.slabs) seen.reserved += cell.bytes.load(relaxed);
        for (const Slab& slab : slabs)
            for (uint64_t s = 0; s < slab.capacity; ++s)
                if (const uint64_t lap = lap_of(slab.ready[s].load(acquire)); lap != 0)
                    seen.position = std::max(seen.position, slab.position(s, lap) + 1);
        for (uint64_t begin = 0; const Slab& slab : slabs) {  // of slabs that are gone all was passed
            std::vector<bool> used(slab.capacity);
            for (size_t i = 0; i < channel.stages.size(); ++i)
                count(channel.stages[i], record, slab, begin, seen, seen.stages[i], used, channel.members);
            seen.used += static_cast<uint64_t>(std::count(used.begin(), used.end(), true));
            begin = slab.end();
        }
        return seen;
    }

    /// Adds what a stage has to do with the messages of one slab, and with those that the lane had from `begin` to there.
    void count(uint32_t index, const LaneRecord& lane, const Slab& slab, uint64_t begin, const LaneSeen& all, StageSeen& seen,
               std::vector<bool>& used, std::vector<MemberSeen>& members) const {
        const Gate gate = looker_.graph().gate(index, lane, slab);
        if (!gate.row) return;  // the sender has not admitted it yet, or not for messages that are here
        std::vector<Gate> before;
        each_bit(looker_.graph().waits_for(index), [&](uint32_t s) {
            if (const Gate other = looker_.graph().gate(s, lane, slab); other.row) before.push_back(other);
        });
        const Next next = file().stage(index).mutates.load(relaxed) != 0 ? Next::writes : Next::reads;
        uint64_t left = 0;
        for (uint64_t s = 0; s < slab.capacity; ++s) {
            const uint64_t ready = slab.ready[s].load(acquire), lap = lap_of(ready);  // PUBLISH
            if (ready_of(ready) != Ready::ready || slab.position(s, lap) >= all.position) continue;
            if (!gate.let_go(slab, s, lap, Next::writes)) used[s] = true;
            if (gate.let_go(slab, s, lap, Next::reads)) continue;
            ++left;
            OldestSeen message{slab.position(s, lap), slab.stamps ? slab.stamps[s].load(relaxed) : 0};
            const uint64_t own = gate.word(s);
            if (lap_of(own) == lap && ack_of(own) == Ack::taken) {
                ++seen.held;
                message.owner = owner_of(own);
                for (MemberSeen& m : members) m.held += m.id == message.owner;
            } else if (lap_of(own) == lap || std::all_of(before.begin(), before.end(), [&](const Gate& other) {
                           return other.let_go(slab, s, lap, next);
                       })) {
                ++seen.waiting;
            }
            if (!seen.oldest || message.position < seen.oldest->position) seen.oldest = message;
        }
        const uint64_t from = std::max(begin, gate.from), end = std::min(all.position, slab.end());
        seen.passed += end - std::min(end, from) - left;
    }
};

}  // namespace psyne
