// The end that looks on: copies messages out of lanes in which it holds nothing, and knows exactly what it missed.
//
//      claim − capacity          next                    claim
//   ──────────┬───────────────────┬────────────────────────┬─────────     positions of a lane
//    written  │ whole             │ whole, or not sent yet │ not in use
//    over     │                   │                        │
//
// A sender claims a position before it writes there, and claims none before what the slot had is published and let go:
//  - a copy is whole if the claim is within a ring of its position afterwards;
//  - all positions before claim − capacity are settled: a message or a SKIP each. The sender counts the SKIPs that it
//    claims over, and tells claim and count in one word. So a tap that was lapped goes on at claim − capacity, and knows
//    how many messages lie between.
#pragma once

#include <deque>
#include <memory>
#include <mutex>

#include <psyne/lane.hpp>
#include <psyne/waiting.hpp>

namespace psyne {

/// Copies what may be written meanwhile: whoever calls it finds out afterwards.
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline)) inline void copy_shared(std::byte* to, const std::byte* from, uint64_t n) noexcept {
    const auto* in = reinterpret_cast<const volatile unsigned char*>(from);
    auto* out = reinterpret_cast<volatile unsigned char*>(to);
    uint64_t i = 0;
    if (reinterpret_cast<uintptr_t>(from) % 8 == 0 && reinterpret_cast<uintptr_t>(to) % 8 == 0)
        for (; i + 8 <= n; i += 8)
            *reinterpret_cast<volatile uint64_t*>(out + i) = *reinterpret_cast<const volatile uint64_t*>(in + i);
    for (; i < n; ++i) out[i] = in[i];
}
#else
inline void copy_shared(std::byte* to, const std::byte* from, uint64_t n) noexcept { std::memcpy(to, from, n); }
#endif

/// A lane as a tap sees it. `before` are the declared stages that write.
struct TapLane : LaneReader {
    uint64_t skips = 0;   // positions before the cursor that have no message
    uint64_t missed = 0;  // messages since the last one that was read
    uint64_t slips = 0;   // copies of late that were overwritten meanwhile

    uint64_t claim() const noexcept { return slab.header->claim.load(acquire); }  // CLAIM
    bool whole(uint64_t position) const noexcept { return claim() <= position + slab.capacity; }
    /// Its sender has left or is dead: no word changes any more, except those of stages.
    bool frozen() const noexcept { return !is(LaneState::open); }

    /// Moves over one position that is published; false when it is not, or is written over.
    bool step() noexcept {
        const uint64_t w = published();
        if (w == word(next.lap, Ready::skip)) ++skips;
        else if (w == word(next.lap, Ready::ready)) ++missed;
        else return false;
        next.advance(slab.capacity);
        return true;
    }

    /// From a position that is claimed again to one that is whole. Not to the very first where copies come too late.
    void catch_up() noexcept {
        const uint64_t claimed = claim(), told = slab.header->skips.load(acquire);  // of this claim, or of a later one
        if (claimed <= next.position + slab.capacity) return;
        uint64_t oldest = claimed - slab.capacity, passed = skips;
        if (told != 0) {
            oldest += static_cast<uint32_t>((told >> 32) - claimed);
            passed += static_cast<uint32_t>(told - skips);
        }
        missed += (oldest - next.position) - (passed - skips);
        skips = passed;
        next = Cursor::at(oldest, slab.first, slab.capacity);
        if (slips == 0 || frozen()) return;
        const uint64_t more = std::max<uint64_t>(slab.capacity / 8, 1) << std::min<uint64_t>(slips - 1, 4);
        for (uint64_t n = std::min(more, slab.capacity - 1); n != 0 && step(); --n) {
        }
    }

    /// Nothing more comes behind the cursor.
    bool over() const noexcept {  // first whether it is frozen, then its words
        return frozen() && whole(next.position) && lap_of(published()) < next.lap && published_behind().position == next.position;
    }
};

/// `count` consecutive messages of one lane that a tap could read, still in their slots.
struct Sight {
    TapLane* lane = nullptr;
    uint64_t slot = 0, lap = 0, count = 0;
    uint64_t missed = 0;  // messages just before; known once they are read
    bool ends = false;    // no message will join them: the lap ends, another type comes, a SKIP
    uint64_t position() const noexcept { return lane->slab.position(slot, lap); }
    const std::byte* data() const noexcept { return lane->slab.at(slot); }
    uint64_t side(const Atomic64* column, uint64_t i = 0) const noexcept { return column ? column[slot + i].load(relaxed) : 0; }
};

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
            TapLane& lane = *lanes_[(turn_ + k) % lanes_.size()];
            if (!come_to_message(lane)) continue;
            if (options_.latest) come_to_newest(lane);
            out = {&lane, lane.next.slot, lane.next.lap, 1, 0, false};
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
        bool whole = lane.whole(s.position());
        if (whole) {
            copy();
            acquire_fence();
            whole = lane.slab.header->claim.load(relaxed) <= s.position() + lane.slab.capacity;  // CLAIM
        }
        registry.me().tap_at.store(0, release);
        if (!whole) {
            ++lane.slips;
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

    /// For statistics, from any thread: messages that are there and were not read yet, slots.
    struct Seen {
        uint64_t waiting = 0, capacity = 0;
    };
    Seen seen() const noexcept {
        std::lock_guard guard(lock_);
        Seen s;
        for (const auto& lane : lanes_) {
            s.capacity += lane->slab.capacity;
            for (uint64_t i = 0; i < lane->slab.capacity; ++i) {
                const uint64_t w = lane->slab.ready[i].load(relaxed), lap = lap_of(w);
                s.waiting += w == word(lap, Ready::ready) && lane->slab.position(i, lap) >= lane->next.position;
            }
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
    std::vector<std::unique_ptr<TapLane>> lanes_;
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
        std::lock_guard guard(lock_);
        std::erase_if(lanes_, [](const auto& lane) { return lane->removed() && lane->over(); });
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t w = c.lane(i).state.load(seq_cst);  // LANE OPEN
            if (state_in<LaneState>(w) == LaneState::free || known(count_in(w)) || !attach(i, count_in(w))) continue;
            any_ = true;
            if (join_in && count_in(w) < registry.join()) begin_in(*lanes_.back());
        }
        std::sort(lanes_.begin(), lanes_.end(), [](const auto& a, const auto& b) { return a->join < b->join; });
        epoch_ = now;
        any_ = any_ || now != joined_at_ || (now != 0 && c.storage().lasting());
    }

    bool known(uint64_t join) const noexcept {
        for (const auto& lane : lanes_)
            if (lane->join == join) return true;
        return false;
    }

    bool attach(uint64_t index, uint64_t join) {
        const ChannelFile& c = registry.file;
        auto lane = std::make_unique<TapLane>();
        const auto place = slab_from(c.lane(index), index, join, 0);
        if (!place) return false;
        lane->slab = Slab::attach(c.storage(), *place, c.shape.payload_bytes, false, sys::Populate::yes);
        if (!lane->slab || lane->slab.stages < c.shape.stage_count) return false;  // let go by all meanwhile
        lane->index = index;
        lane->record = &c.lane(index);
        lane->join = join;
        for (uint32_t s : writers_) lane->before.push_back({lane->slab.row(s)});
        lane->waits_as = Next::writes;
        lane->next = Cursor::at(lane->slab.first, lane->slab.first, lane->slab.capacity);
        lanes_.push_back(std::move(lane));
        return true;
    }

    /// Where a tap stands in a lane.
    struct Stand {
        Cursor next;
        uint64_t skips, missed;
        static Stand of(const TapLane& l) noexcept { return {l.next, l.skips, l.missed}; }
        void take(TapLane& l) const noexcept { l.next = next, l.skips = skips, l.missed = missed; }
    };

    /// In a lane that was there before us: behind what was sent, or so many messages before that.
    static constexpr uint64_t kRounds = 2;  // of a ring, after which a walk does not run after its sender any more
    void begin_in(TapLane& lane) {
        std::deque<Stand> last;
        for (uint64_t n = 0; options_.history != 0 && n < kRounds * lane.slab.capacity && come_to_message(lane); ++n) {
            last.push_back(Stand::of(lane));
            if (last.size() > options_.history) last.pop_front();
            lane.step();
        }
        if (!last.empty()) last.front().take(lane);
        for (uint64_t n = 0; options_.history == 0 && n < kRounds * lane.slab.capacity; ++n) {
            if (!lane.whole(lane.next.position)) lane.catch_up();
            else if (!lane.step()) break;
        }
        lane.missed = 0;
    }

    /// Moves to the next message that can be read; false when there is none now.
    bool come_to_message(TapLane& lane) const noexcept {
        for (uint64_t n = 0; n < kRounds * lane.slab.capacity + kRounds; ++n) {
            const bool frozen = lane.frozen();  // before the words
            if (!lane.whole(lane.next.position)) {
                lane.catch_up();
                continue;
            }
            const uint64_t w = lane.published();
            if (lap_of(w) > lane.next.lap) continue;  // written over just now
            if (lap_of(w) < lane.next.lap) {
                const Cursor behind = frozen ? lane.published_behind() : lane.next;
                if (behind.position == lane.next.position) return false;
                lane.next = behind;  // a hole: of a dead sender
                continue;
            }
            bool drop = false;
            if (ready_of(w) == Ready::ready) {
                if (!written(lane, lane.next.slot, lane.next.lap, drop)) return false;
                if (!drop) return true;
            }
            if (!lane.step()) return false;
        }
        return false;
    }

    /// From one message that can be read to the last one.
    void come_to_newest(TapLane& lane) const noexcept {
        Stand newest = Stand::of(lane);
        for (uint64_t n = 0; n < kRounds * lane.slab.capacity && lane.step() && come_to_message(lane); ++n) newest = Stand::of(lane);
        newest.take(lane);
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
        const Slab& slab = s.lane->slab;
        for (; s.count < limit; ++s.count) {
            const uint64_t slot = s.slot + s.count;
            bool drop = false;
            s.ends = slot == slab.capacity;
            if (s.ends || lap_of(slab.ready[slot].load(acquire)) < s.lap) return;  // PUBLISH
            s.ends = slab.ready[slot].load(acquire) != word(s.lap, Ready::ready) || !s.lane->alike(slot, s.slot);
            if (s.ends || !written(*s.lane, slot, s.lap, drop)) return;
            s.ends = drop;
            if (drop) return;
        }
    }

    /// Names a message that could be read; 0: none.
    uint64_t peek() {
        if (registry.file.header().lanes_epoch.load(seq_cst) != epoch_) return 0;  // no publish: joins wake all
        for (const auto& lane : lanes_)
            if (come_to_message(*lane)) return lane->join << 40 ^ (lane->next.position + 1);
        return 0;
    }
};

}  // namespace psyne
