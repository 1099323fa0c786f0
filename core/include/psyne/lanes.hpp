// The lanes that one receiver reads: new ones are found, each is followed from slab to slab.
//
//    older_     slab 3    slab 4                passed; kept while messages of them live, or may come back
//    lanes_                         slab 5      in which it stands; a lane keeps its place among the lanes
//    in cells             slab 4    slab 5    slab 6
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
            older_.push_back(std::move(lanes_[i]));
            lanes_.erase(lanes_.begin() + static_cast<std::ptrdiff_t>(i));
        }
        let_go_older();
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

    /// Lane `i` is read up to the close of its slab: goes on in the next one. False when there is none any more.
    bool to_next_slab(const ChannelFile& c, size_t i) {
        const LaneReader& passed = *lanes_[i];
        auto next = reader(c, passed.index, passed.join, passed.from, passed.slab.place.number + 1);
        if (!next) return false;
        std::lock_guard guard(lock_);
        older_.push_back(std::exchange(lanes_[i], std::move(next)));
        let_go_older();
        return true;
    }

    /// Is `f` true of the reader of some slab, passed ones too?
    template <class F>
    bool some(F&& f) const {
        for (const auto& lane : older_)
            if (f(*lane)) return true;
        for (const auto& lane : lanes_)
            if (f(*lane)) return true;
        return false;
    }

    /// Messages taken and not ended.
    uint64_t outstanding() const noexcept {
        uint64_t n = 0;
        some([&](const LaneReader& lane) { return n += lane.outstanding(), false; });
        return n;
    }
    /// Every slot of all open lanes is taken by us: none of them can send.
    bool hoarded() const noexcept {
        bool open = false;
        for (const auto& lane : lanes_) {
            if (!lane->is(LaneState::open)) continue;
            if (lane->record->grows.load(relaxed) != 0 || lane->outstanding() < lane->slab.capacity) return false;
            open = true;
        }
        return open;
    }

    /// For statistics, from any thread: messages held, messages that this stage has not taken yet, slots. Of each lane
    /// from the slab on in which we stand.
    struct Seen {
        uint64_t held = 0, waiting = 0, capacity = 0;
        void add(const LaneReader& lane) noexcept {
            waiting += lane.waiting();
            capacity += lane.slab.capacity;
        }
    };
    Seen seen(const ChannelFile& c) const noexcept {
        std::lock_guard guard(lock_);
        Seen s{outstanding(), 0, 0};
        for (const auto& lane : lanes_) {
            s.add(*lane);
            try {
                std::unique_ptr<LaneReader> ahead;
                for (const LaneReader* at = lane.get(); at && at->slab.end() != ~0ull; at = ahead.get())
                    if ((ahead = reader(c, lane->index, lane->join, lane->from, at->slab.place.number + 1))) s.add(*ahead);
            } catch (const std::exception&) {  // a damaged slab: who takes from it is told
            }
        }
        return s;
    }

private:
    uint32_t stage_;
    uint64_t generation_;
    uint32_t before_;
    Next waits_as_;
    bool shared_;
    std::vector<std::unique_ptr<LaneReader>> lanes_, older_;
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

    /// A mapping keeps the memory, so it goes as soon as nothing can come of it.
    void let_go_older() noexcept {
        std::erase_if(older_, [](const auto& lane) { return lane->outstanding() == 0 && (lane->removed() || lane->settled()); });
    }

    bool attach(const ChannelFile& c, uint64_t index, uint64_t state) {
        uint64_t from = 0;
        if (!admitted(c, index, state, from)) return false;
        auto lane = reader(c, index, count_in(state), from, 0);
        if (!lane) return false;
        lanes_.push_back(std::move(lane));
        return true;
    }

    /// Of the oldest slab, from number `least` on, that ends behind our first position; null when there is none any more.
    std::unique_ptr<LaneReader> reader(const ChannelFile& c, uint64_t index, uint64_t join, uint64_t from, uint64_t least) const {
        auto lane = std::make_unique<LaneReader>();
        do {
            const auto place = slab_from(c.lane(index), index, join, least);
            if (!place) return nullptr;
            lane->slab = Slab::attach(c.storage(), *place, c.shape.payload_bytes, waits_as_ == Next::writes, sys::Populate::yes);
            least = place->number + 1;
        } while (!lane->slab || lane->slab.stages < c.shape.stage_count || lane->slab.end() <= from);  // gone: let go by all
        lane->index = index;
        lane->record = &c.lane(index);
        lane->join = join;
        lane->from = from;
        lane->own = lane->slab.row(stage_);
        each_bit(before_, [&](uint32_t s) {
            if (const Gate gate = Graph(c).gate(s, *lane->record, lane->slab); gate.row) lane->before.push_back(gate);
        });
        lane->waits_as = waits_as_;
        lane->plain = before_ == 0 && lane->slab.variants == nullptr && lane->slab.extents == nullptr;
        lane->alone = before_ == 0 && !shared_;
        lane->next = lane->behind_all_taken();
        return lane;
    }
};

}  // namespace psyne
