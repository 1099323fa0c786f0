// The lanes that one receiver reads: new ones are found, those that are gone are kept while messages of them live.
#pragma once

#include <memory>
#include <mutex>

#include <psyne/channel_file.hpp>
#include <psyne/lane.hpp>
#include <psyne/lane_slabs.hpp>

namespace psyne {

class Lanes {
public:
    size_t turn = 0;     // the lane to look at first
    uint64_t epoch = 0;  // of the channel, when lanes were last looked for
    bool any = false;    // had a lane: what never began has not ended
    bool pending = false;  // there is one whose sender has not admitted our stage yet

    /// As a member of `stage`, which waits for the stages in the mask `before`; `shared`: others of it take, too.
    /// `generation`: of a stage that was added later, else 0.
    Lanes(uint32_t stage, uint64_t generation, uint32_t before, Next waits_as, bool shared)
        : stage_(stage), generation_(generation), before_(before), waits_as_(waits_as), shared_(shared) {}

    auto begin() const noexcept { return lanes_.begin(); }
    auto end() const noexcept { return lanes_.end(); }
    size_t size() const noexcept { return lanes_.size(); }
    LaneReader& operator[](size_t i) const noexcept { return *lanes_[i]; }

    /// Finds new lanes, forgets those that were removed. True: there are new ones. `first`: whose turn it is.
    bool refresh(const ChannelFile& c, uint64_t first) {
        const uint64_t now = c.header().lanes_epoch.load(seq_cst);
        std::lock_guard guard(lock_);
        for (size_t i = 0; i < lanes_.size();) {
            if (!lanes_[i]->removed()) {
                ++i;
                continue;
            }
            retired_.push_back(std::move(lanes_[i]));
            lanes_.erase(lanes_.begin() + static_cast<std::ptrdiff_t>(i));
        }
        std::erase_if(retired_, [](const auto& lane) { return lane->outstanding() == 0; });
        bool found = false;
        pending = false;
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t w = c.lane(i).state.load(seq_cst);  // LANE OPEN
            if (state_in<LaneState>(w) != LaneState::free && !known(i, count_in(w)) && attach(c, i, w)) found = true;
        }
        std::sort(lanes_.begin(), lanes_.end(), [](const auto& a, const auto& b) { return a->join < b->join; });
        turn = lanes_.empty() || one_sender(c.shape.pattern) ? 0 : first % lanes_.size();
        epoch = now;
        any = any || found || pending || (now != 0 && c.storage().lasting());  // lanes that ended before we came count too
        return found;
    }

    /// Messages taken and not ended.
    uint64_t outstanding() const noexcept {
        uint64_t n = 0;
        for (const auto& lane : lanes_) n += lane->outstanding();
        for (const auto& lane : retired_) n += lane->outstanding();
        return n;
    }
    /// Every slot of all open lanes is taken by us: none of them can send.
    bool hoarded() const noexcept {
        bool open = false;
        for (const auto& lane : lanes_) {
            if (!lane->is(LaneState::open)) continue;
            if (lane->outstanding() < lane->slab.capacity) return false;
            open = true;
        }
        return open;
    }

    /// For statistics, from any thread: messages held, messages that this stage has not taken yet, slots.
    struct Seen {
        uint64_t held = 0, waiting = 0, capacity = 0;
    };
    Seen seen() const noexcept {
        std::lock_guard guard(lock_);
        Seen s{outstanding(), 0, 0};
        for (const auto& lane : lanes_) {
            s.waiting += lane->waiting();
            s.capacity += lane->slab.capacity;
        }
        return s;
    }

private:
    uint32_t stage_;
    uint64_t generation_;
    uint32_t before_;
    Next waits_as_;
    bool shared_;
    std::vector<std::unique_ptr<LaneReader>> lanes_, retired_;
    mutable std::mutex lock_;  // changing them against `seen`

    bool known(uint64_t index, uint64_t join) const noexcept {
        for (const auto& lane : lanes_)
            if (lane->index == index && lane->join == join) return true;
        return false;
    }

    /// Has its sender admitted our stage? Then `from` is the first position for us. Throws Errc::no_space.
    bool admitted(const ChannelFile& c, uint64_t index, uint64_t state, uint64_t& from) {
        if (generation_ == 0) return true;
        const LaneRecord& record = c.lane(index);
        const uint64_t as = record.admitted[stage_].load(acquire);  // ADMIT
        from = record.from[stage_].load(acquire);
        if (record.state.load(seq_cst) != state) return false;  // another sender's meanwhile: lanes_epoch tells
        if ((as & ~kRefused) != generation_) {
            pending = pending || state_in<LaneState>(state) == LaneState::open;
            return false;
        }
        if (as & kRefused)
            fail(Errc::no_space, "a sender of " + c.address() + " has no space in shared memory for the words of stage '" +
                                     load_name(c.stage(stage_).name) + "'; free space in /dev/shm and add the stage again");
        return true;
    }

    bool attach(const ChannelFile& c, uint64_t index, uint64_t state) {
        const uint64_t join = count_in(state);
        auto lane = std::make_unique<LaneReader>();
        if (!admitted(c, index, state, lane->from)) return false;
        const auto place = slab_from(c.lane(index), index, join, 0);
        if (!place) return false;
        lane->slab = Slab::attach(c.storage(), *place, c.shape.payload_bytes, waits_as_ == Next::writes, sys::Populate::yes);
        if (!lane->slab || lane->slab.stages < c.shape.stage_count) return false;  // let go by all meanwhile
        lane->index = index;
        lane->record = &c.lane(index);
        lane->join = join;
        lane->own = lane->slab.row(stage_);
        each_bit(before_, [&](uint32_t s) {
            if (const Gate gate = Graph(c).gate(s, *lane->record, lane->slab); gate.row) lane->before.push_back(gate);
        });
        lane->waits_as = waits_as_;
        lane->plain = before_ == 0 && lane->slab.variants == nullptr && lane->slab.extents == nullptr;
        lane->alone = lane->plain && !shared_;
        lane->next = lane->behind_all_taken();
        lanes_.push_back(std::move(lane));
        return true;
    }
};

}  // namespace psyne
