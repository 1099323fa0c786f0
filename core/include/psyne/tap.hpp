// The end that looks on: copies messages out of lanes in which it holds nothing, and knows exactly what it missed.
//
// A sender claims a position before it writes there, and claims none before what the slot had is published and let go:
//  - a copy is whole if the claim is within a ring of its position afterwards;
//  - all positions before claim − capacity are settled: a message or a SKIP each. The sender counts the SKIPs that it
//    claims over, and tells claim and count in one word. So a tap that was lapped goes on at claim − capacity, and knows
//    how many messages lie between.
// Where a slab ends it goes on to the next. A slab that is retired has a claim above all positions: it goes on to the
// oldest that is there, and knows how many messages lie between, because each slab says how many SKIPs are before it.
#pragma once

#include <deque>
#include <mutex>

#include <psyne/lane_slabs.hpp>
#include <psyne/tap_lane.hpp>
#include <psyne/waiting.hpp>

namespace psyne {

struct TapOptions {
    bool latest = false;      // only the newest message of each sender
    uint64_t history = 0;     // begin with so many messages of each sender that is there
    bool from_start = false;  // begin with the first message: it was opened before the channel
    Spinner::Mode wait = Spinner::Mode::adaptive;
};

class Tap {
public:
    Registry registry;
    std::atomic<bool> stopping{false};  // set by close() of any thread: waits end
    bool follow = false;                // an ended channel may go on: wait for the next sender

    Tap(Registry r, const TapOptions& options)
        : registry(std::move(r)), options_(options), spinner_(options.wait),
          standby_(registry, registry.file.header().taps_idle, 0, true) {
        for (uint32_t s = 0; s < registry.file.shape.stage_count; ++s)
            if (registry.file.stage(s).mutates.load(relaxed) != 0) writers_.push_back(s);
        joined_at_ = registry.file.header().lanes_epoch.load(seq_cst);
    }
    /// Looks for the lanes that are there.
    void begin() { look_for_lanes(!options_.from_start); }

    /// The next messages, up to `limit`, that can be read; false when there is none now.
    bool find(uint64_t limit, Sight& out) {
        if (registry.file.header().lanes_epoch.load(acquire) != epoch_) refresh();
        for (size_t k = 0; k < lanes_.size(); ++k) {
            TapLanePtr& lane = lanes_[(turn_ + k) % lanes_.size()];
            if (!come_to_message(lane)) continue;
            if (options_.latest) come_to_newest(lane);
            out = {lane.get(), lane->next.slot, lane->next.lap, 1, lane->extent(lane->next.slot), 0, false};
            extend(out, limit);
            return true;
        }
        return false;
    }

    /// Calls `copy`, which copies what was found; false when it was overwritten meanwhile: find again.
    template <class Copy>
    bool read(Sight& s, Copy&& copy) {
        TapLane& lane = *s.lane;
        registry.me().tap_at.store(lane.slab.place.id(), seq_cst);  // who gives back pages looks at it
        full_fence();
        bool whole = lane.whole(s.position()), there = whole && lane.extent(s.slot) == s.extent && (s.extent & kGone) == 0;
        if (there) {
            copy();
            acquire_fence();
            whole = lane.slab.header->claim.load(relaxed) <= s.position() + lane.slab.capacity;  // CLAIM
            there = whole && lane.extent(s.slot) == s.extent;
        }
        registry.me().tap_at.store(0, release);
        if (!there) {
            lane.slips += !whole && !lane.retired();
            return false;
        }
        lane.slips -= lane.slips != 0;
        s.missed = std::exchange(lane.missed, 0);
        lane.next.advance(lane.slab.capacity, s.count);
        turn_ = one_sender(registry.file.shape.pattern) ? 0 : turn_ + 1;
        return true;
    }

    /// Waits until there is a message. Wait::stopped: closed, or the channel has ended.
    template <class Tick>
    Wait wait(uint64_t deadline, Tick&& tick) {
        return wait_for(
            registry, registry.file.header().taps_idle, 0, spinner_, deadline, [&] { return there(1) != 0; },
            [&] { return stopping.load(relaxed) || (ended() && (!follow || closed())); }, [&] { return peek(); },
            [&] {
                look_after_others();
                return tick();
            });
    }
    /// After the first: waits until `limit` are there, no more can join them, or the deadline. False when `tick` says so.
    template <class Tick>
    bool linger(uint64_t limit, uint64_t deadline, Tick&& tick) {
        for (Sight s; find(limit, s) && s.count < limit && !s.ends && !s.lane->frozen() && !stopping.load(relaxed);) {
            const uint64_t now = sys::now_ns();
            if (now >= deadline) break;
            sys::futex_wait(registry.me().wakes, registry.me().wakes.load(seq_cst), std::min(kLinger, deadline - now));
            if (registry.due()) {
                registry.bury_dead();
                if (!tick()) return false;
            }
        }
        return true;
    }

    /// Would a receive return at once?
    bool ready() {
        if (registry.due()) look_after_others();
        return stopping.load(relaxed) || there(1) != 0 || (ended() && (!follow || closed()));
    }
    /// How many messages, `limit` at most, a batch would have now.
    uint64_t there(uint64_t limit) {
        Sight s;
        return find(limit, s) ? s.count : 0;
    }

    /// For event loops: from here on whoever has something for us rings `bell`. Look again afterwards.
    void arm(Bell& bell, bool) {
        bell.hush();
        bell.listen();
        standby_.lie_down();
    }
    void disarm(bool took) noexcept {
        if (standby_.in()) standby_.rise(took);
    }
    void pass_on() noexcept {}
    const Bed& standby() const noexcept { return standby_; }
    /// While armed, once a slice. Nanoseconds until the next time; 0: look now.
    uint64_t slice() {
        if (registry.due()) look_after_others();
        return standby_.look([&] { return peek(); });
    }

    /// As any end does; nobody needs a tap for it.
    void look_after_others() {
        registry.bury_dead();
        registry.reap();
        refresh();
    }

    /// All lanes are over, and what there was is read.
    bool ended() const noexcept {
        const Atomic64& epoch = registry.file.header().lanes_epoch;
        if (epoch.load(seq_cst) != epoch_) return false;
        if (!any_) return closed();
        for (const auto& lane : lanes_)
            if (!lane->over()) return false;
        return epoch.load(seq_cst) == epoch_;
    }
    /// The channel was replaced or removed: nothing will come here any more.
    bool closed() const noexcept {
        return state_in<ChannelState>(registry.file.header().state.load(seq_cst)) == ChannelState::closed;
    }
    /// After `ended()`: a sender died or failed and none has come since.
    bool sender_lost() const noexcept {
        const ChannelHeader& h = registry.file.header();
        return h.lost_epoch.load(seq_cst) != 0 && h.lost_epoch.load(seq_cst) == h.lanes_epoch.load(seq_cst);
    }

    /// For statistics, from any thread: messages that are there and were not read yet, slots of the newest slabs.
    struct Seen {
        uint64_t waiting = 0, capacity = 0;
    };
    Seen seen() const {
        std::lock_guard guard(lock_);
        Seen s;
        for (const auto& lane : lanes_) {
            uint64_t capacity = lane->slab.capacity;
            if (!lane->retired()) s.waiting += TapLane::messages(lane->slab, lane->next.position);
            for (const SlabPlace& place : slabs_of(*lane->record, lane->index, lane->join)) {
                if (place.number <= lane->slab.place.number) continue;
                const Slab slab = attach(place, sys::Populate::no);
                if (!slab) continue;
                s.waiting += TapLane::messages(slab, 0);
                capacity = slab.capacity;
            }
            s.capacity += capacity;
        }
        return s;
    }

    size_t lanes() const noexcept { return lanes_.size(); }

    void close() noexcept {
        disarm(false);
        registry.leaving();
    }

private:
    TapOptions options_;
    std::vector<uint32_t> writers_;  // declared stages
    std::vector<TapLanePtr> lanes_;
    mutable std::mutex lock_;  // changing them against `seen`
    size_t turn_ = 0;          // the lane to look at first
    uint64_t epoch_ = 0;       // of the channel, when lanes were last looked for,
    uint64_t joined_at_ = 0;   // and when we came
    bool any_ = false;         // there was a lane: what never began has not ended
    Spinner spinner_;
    Bed standby_;

    /// Finds new lanes, forgets those that were removed and are read.
    void refresh() { look_for_lanes(false); }

    /// `join_in`: lanes that are older than us were there before; all others are read from their first message.
    void look_for_lanes(bool join_in) {
        const ChannelFile& c = registry.file;
        const uint64_t now = c.header().lanes_epoch.load(seq_cst);
        std::vector<TapLanePtr> found;
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t w = c.lane(i).state.load(seq_cst);  // LANE OPEN
            if (state_in<LaneState>(w) == LaneState::free || known(count_in(w))) continue;
            TapLanePtr lane = enter(i, count_in(w), 0);
            if (!lane) continue;  // let go by all meanwhile
            if (join_in && count_in(w) < registry.join()) begin_in(lane);
            else lane->come_from_start();
            found.push_back(std::move(lane));
        }
        std::lock_guard guard(lock_);
        std::erase_if(lanes_, [](const auto& lane) { return lane->removed() && lane->over(); });
        lanes_.insert(lanes_.end(), found.begin(), found.end());
        std::sort(lanes_.begin(), lanes_.end(), [](const auto& a, const auto& b) { return a->join < b->join; });
        epoch_ = now;
        any_ = any_ || !found.empty() || now != joined_at_ || (now != 0 && c.storage().lasting());
    }

    bool known(uint64_t join) const noexcept {
        for (const auto& lane : lanes_)
            if (lane->join == join) return true;
        return false;
    }

    Slab attach(const SlabPlace& place, sys::Populate populate) const {
        return Slab::attach(registry.file.storage(), place, registry.file.shape.payload_bytes, false, populate);
    }

    /// At the beginning of the oldest slab of a lane that is there and whose number is `least` or more; else null.
    TapLanePtr enter(uint64_t index, uint64_t join, uint64_t least) const {
        const ChannelFile& c = registry.file;
        while (const auto place = slab_from(c.lane(index), index, join, least)) {
            least = place->number + 1;
            Slab slab = attach(*place, sys::Populate::yes);
            if (!slab || slab.stages < c.shape.stage_count) continue;  // let go by all meanwhile
            auto lane = std::make_shared<TapLane>();
            lane->slab = std::move(slab);
            lane->index = index;
            lane->record = &c.lane(index);
            lane->join = join;
            for (uint32_t s : writers_) lane->before.push_back({lane->slab.row(s)});
            lane->waits_as = Next::writes;
            lane->next = Cursor::at(lane->slab.first, lane->slab.first, lane->slab.capacity);
            return lane;
        }
        return nullptr;
    }

    /// From the end of a slab, or out of one that was retired, to the next that is there; false when there is none now.
    /// `frozen`: nor will there be one.
    bool go_on(TapLanePtr& lane, bool frozen) {
        TapLanePtr next = enter(lane->index, lane->join, lane->slab.place.number + 1);
        if (!next || !next->come_from(*lane)) return lane->last = frozen, false;
        stand(lane, std::move(next));
        return true;
    }
    void stand(TapLanePtr& lane, TapLanePtr in) noexcept {
        std::lock_guard guard(lock_);
        lane = std::move(in);
    }
    void stand(TapLanePtr& lane, const Stand& at) noexcept {
        stand(lane, at.lane);
        lane->next = at.next, lane->skips = at.skips, lane->missed = at.missed;
    }

    /// In a lane that was there before us: behind what was sent, or so many messages before that.
    void begin_in(TapLanePtr& lane) {
        std::deque<Stand> newest;
        Walk walk;
        if (options_.history == 0) {
            while (walk.goes_on(*lane) && come_to_sent(lane)) lane->step();
        } else {
            for (; walk.goes_on(*lane) && come_to_message(lane); lane->step()) {
                newest.push_back(Stand::of(lane));
                if (newest.size() > options_.history) newest.pop_front();
            }
        }
        if (!newest.empty()) stand(lane, newest.front());
        lane->missed = 0;
    }

    /// Moves to the next message that was sent and not written over; false when there is none now.
    bool come_to_sent(TapLanePtr& lane) {
        for (Walk walk; walk.goes_on(*lane);) {
            const bool frozen = lane->frozen();  // before the words
            if (!lane->whole(lane->next.position)) {
                if (!lane->retired()) lane->catch_up();
                else if (!go_on(lane, frozen)) return false;
                continue;
            }
            const uint64_t w = lane->published();
            if (lap_of(w) > lane->next.lap) continue;  // written over just now
            if (w == word(lane->next.lap, Ready::ready)) return true;
            if (lap_of(w) == lane->next.lap) lane->step();
            else if (!(frozen && lane->pass_holes()) && !(lane->closed_here() && go_on(lane, frozen))) return false;
        }
        return false;
    }

    /// Moves to the next message that can be read; false when there is none now.
    bool come_to_message(TapLanePtr& lane) {
        for (Walk walk; walk.goes_on(*lane) && come_to_sent(lane); lane->step()) {
            bool drop = false;
            if (!written(*lane, lane->next.slot, lane->next.lap, drop)) return false;
            if (!drop && (lane->extent(lane->next.slot) & kGone) == 0) return true;
        }
        return false;
    }

    /// From one message that can be read to the last one.
    void come_to_newest(TapLanePtr& lane) {
        Stand newest = Stand::of(lane);
        for (Walk walk; walk.goes_on(*lane) && lane->step() && come_to_message(lane);) newest = Stand::of(lane);
        stand(lane, newest);
    }

    /// Has every stage that writes let go this message? It is READY: a stage added from now on is not for it.
    /// `drop`: one of them took it out, or will never finish it.
    bool written(const TapLane& lane, uint64_t slot, uint64_t lap, bool& drop) const noexcept {
        if (!lane.let_go_before(slot, lap, drop)) return false;
        const Graph graph = registry.graph();
        bool all = true;
        each_bit(graph.added(), [&](uint32_t s) {
            if (registry.file.stage(s).mutates.load(relaxed) == 0) return;
            Gate gate = graph.gate(s, *lane.record, lane.slab);
            const bool removed = lane.removed();  // let go by all, and the record may be another lane's
            if (removed) gate = {lane.slab.row(s)};
            if (!gate.row) return;
            all = all && (removed || gate.let_go(lane.slab, slot, lap, Next::writes));
            drop = drop || gate.dropped(slot, lap);
        });
        return all;
    }

    /// As many consecutive messages of one type as can be read.
    void extend(Sight& s, uint64_t limit) const noexcept {
        const Slab& slab = s.slab();
        for (; s.count < limit; ++s.count) {
            const uint64_t slot = s.slot + s.count;
            bool drop = false;
            s.ends = slot == slab.capacity || s.extent != 0;
            if (s.ends) return;
            const uint64_t w = slab.ready[slot].load(acquire);  // PUBLISH
            s.ends = lap_of(w) < s.lap ? s.position() + s.count >= slab.end() : w != word(s.lap, Ready::ready) || !s.lane->alike(slot, s.slot);
            if (s.ends || lap_of(w) < s.lap || !written(*s.lane, slot, s.lap, drop)) return;
            s.ends = drop;
            if (drop) return;
        }
    }

    /// Names a message that could be read; 0: none.
    uint64_t peek() {
        if (registry.file.header().lanes_epoch.load(seq_cst) != epoch_) return 0;  // no publish: joins wake all
        for (auto& lane : lanes_)
            if (come_to_message(lane)) return lane->join << 40 ^ (lane->next.position + 1);
        return 0;
    }
};

}  // namespace psyne
