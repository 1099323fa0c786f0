// The receiving end: takes messages of all lanes in order, ends them, sees the end of the channel.
#pragma once

#include <psyne/lanes.hpp>
#include <psyne/waiting.hpp>

namespace psyne {

class Receiver {
public:
    Registry registry;
    std::atomic<bool> stopping{false};  // set by close() of any thread: waits end
    bool follow = false;                // an ended channel may go on: wait for the next sender
    bool oldest_first = false;          // of lanes that keep timestamps, in place of turns
    std::atomic<uint64_t> held_back{0};  // messages that end by themselves, when work of a device is done

    /// `generation`: of a stage that was added later, else 0.
    Receiver(Registry r, uint32_t stage, uint64_t generation, Spinner::Mode wait)
        : registry(std::move(r)), stage_(registry.file.stage(stage)), stage_index_(stage),
          writes_(stage_.mutates.load(relaxed) != 0), shared_(!one_member(registry.file.shape.pattern)),
          lanes_(stage, generation, registry.graph().waits_for(stage), writes_ ? Next::writes : Next::reads, shared_),
          fence_(registry.file.header()), spinner_(wait), standby_(registry, stage_.idle, 0, true) {
        look_behind();
        orphans_seen_ = ~0ull;  // differs: look for orphans first
    }

    bool writes() const noexcept { return writes_; }
    Spinner::Mode wait_mode() const noexcept { return spinner_.mode(); }
    const Lanes& lanes() const noexcept { return lanes_; }

    /// Takes up to `limit` consecutive messages; false when there is none now.
    bool try_take(uint64_t limit, Taken& out) {
        const ChannelHeader& h = registry.file.header();
        if (h.lanes_epoch.load(acquire) != lanes_.epoch || lanes_.pending) refresh();
        if (stage_.orphans.load(acquire) != orphans_seen_ && take_orphan(out)) return true;
        const size_t n = lanes_.size(), first = oldest_first ? oldest() : lanes_.turn;
        for (size_t k = 0; k < n; ++k) {
            const size_t i = first + k < n ? first + k : first + k - n;
            if (take_run(i, limit, out)) {
                lanes_.turn = i + 1 < n && !one_sender(registry.file.shape.pattern) ? i + 1 : 0;  // the older lane first
                return true;
            }
        }
        return stage_.orphans.load(acquire) != orphans_seen_ && take_orphan(out);  // in slabs that we came to just now
    }

    /// Nothing will come any more, or it is not for waiting: closed, ended, or all slots are held here.
    bool over() { return stopping.load(relaxed) || hoards() || (ended() && (!follow || closed())); }
    /// Waits for up to `limit` messages. Wait::stopped: closed, or the channel has ended.
    template <class Tick>
    Wait receive(uint64_t limit, Taken& out, uint64_t deadline, Tick&& tick) {
        const Wait result = wait_for(
            registry, stage_.idle, 0, spinner_, deadline, [&] { return try_take(limit, out); },
            [&] { return over(); },
            [&] { return peek(); },
            [&] {
                look_after_others();
                return tick();
            });
        if (result == Wait::ready) pass_on();
        if (at_end_ && (result == Wait::timeout || result == Wait::interrupted) && outstanding() != 0)
            not_at_end();  // goes away with messages in its hands
        return result;
    }

    /// Would receive() return at once? Takes nothing.
    bool ready() {
        return stopping.load(relaxed) || there(1) != 0 || hoards() || (ended_now() && (!follow || closed()));
    }
    /// How many messages, `limit` at most, try_take would give now.
    uint64_t there(uint64_t limit) {
        if (registry.file.header().lanes_epoch.load(acquire) != lanes_.epoch || lanes_.pending) refresh();
        if (stage_.orphans.load(acquire) != orphans_seen_ && orphan_there()) return 1;
        for (size_t k = 0; k < lanes_.size(); ++k) {
            const size_t i = (lanes_.turn + k) % lanes_.size();
            do {
                if (const uint64_t n = run_there(lanes_[i], limit)) return n;
            } while (pass_one(lanes_[i]) || to_next_slab(i));
        }
        return stage_.orphans.load(acquire) != orphans_seen_ && orphan_there();
    }

    /// For event loops: from here on whoever has something for us rings `bell`. Look again afterwards.
    /// `waits`: the caller really waits, and so waits for the end as well.
    void arm(Bell& bell, bool waits) {
        bell.hush();
        bell.listen();
        standby_.lie_down();
        waits_ = waits;
        if (waits) ended();
    }
    void disarm(bool took) noexcept {
        const bool waited = std::exchange(waits_, false);
        if (standby_.in()) standby_.rise(took);
        if (!took && waited && at_end_ && outstanding() != 0) not_at_end();
    }
    /// After a take: a wake that came before we got up was for what we did not see then, in any lane.
    void pass_on() noexcept {
        if (shared_ && stage_.idle.load(seq_cst) != 0 && peek() != 0) registry.wake_one(stage_.idle, 0);
    }
    const Bed& standby() const noexcept { return standby_; }
    /// While armed, once a slice. Nanoseconds until the next time; 0: look now.
    uint64_t slice() {
        if (registry.due()) look_after_others();
        return standby_.look([&] { return peek(); });
    }

    /// Buries the dead, removes lanes that are over, finds new ones.
    void look_after_others() {
        registry.bury_dead();
        registry.reap();
        refresh();
    }

    /// After the first: waits for more of the same run until `limit` or the deadline. False when `tick` says so.
    template <class Tick>
    bool linger(Taken& got, uint64_t limit, uint64_t deadline, Tick&& tick) {
        // Not in the stage's idle mask: a wake must go to members that wait for any message.
        for (;;) {
            while (extend(got, limit)) {
            }
            const uint64_t now = sys::now_ns();
            if (got.count >= limit || !may_extend(got) || now >= deadline || stopping.load(relaxed) || got.lane->at_end())
                return true;
            if (got.lane->more()) {  // came just now, or is of another type, or not for us
                if (!extend(got, limit)) return true;
                continue;
            }
            sys::futex_wait(registry.me().wakes, registry.me().wakes.load(seq_cst), std::min(kLinger, deadline - now));
            if (registry.due()) {
                registry.bury_dead();
                if (!tick()) return false;
            }
        }
    }

    /// Ends a message: DONE, or PASSED while views on it live (then `finish` it).
    void end(const Taken& t, bool views_live) noexcept {
        const uint64_t w = views_live ? word(t.lap, Ack::passed, registry.id) : word(t.lap, Ack::done);
        for (uint64_t i = 0; i < t.count; ++i) t.lane->own[t.slot + i].store(w, release);  // END
        wake_others(*t.lane);
        if (writes()) registry.wake_taps();
        if (!views_live) settle(t);  // last: the lane may be gone after it
    }

    /// The last view of a PASSED message is gone.
    void finish(const Taken& t) noexcept { end(t, false); }

    /// The work on it failed, perhaps when it was half written: it goes the way of a message whose owner died.
    void fail(const Taken& t) {
        for (uint64_t i = 0; i < t.count; ++i) registry.forsake(stage_, t.lane->own[t.slot + i]);
        stage_.orphans.fetch_add(1, seq_cst);
        registry.wake_everybody();
        settle(t);
    }

    /// Gives back what the caller never saw.
    void give_back(const Taken& t) noexcept {
        const uint64_t w = word(t.lap, Ack::orphan) | t.deaths * kDeath;
        for (uint64_t i = 0; i < t.count; ++i) t.lane->own[t.slot + i].store(w, release);
        stage_.orphans.fetch_add(1, seq_cst);
        registry.wake_stage(stage_index_);
        settle(t);
    }

    /// Says that a mutating stage is about to write: if it dies now, the message is half changed.
    void dirty(const Taken& t) noexcept {
        const uint64_t w = word(t.lap, Ack::taken, registry.id) | t.deaths * kDeath | kDirty;
        for (uint64_t i = 0; i < t.count; ++i) t.lane->own[t.slot + i].store(w, release);
    }

    bool is_dirty(const Taken& t) const noexcept { return (t.lane->own[t.slot].load(relaxed) & kDirty) != 0; }

    /// Messages lost by full="drop" just before this one.
    static uint64_t missed(const Taken& t) noexcept {
        return t.lane->slab.dropped ? t.lane->slab.dropped[t.slot].load(relaxed) : 0;
    }

    /// Messages taken and not ended.
    uint64_t outstanding() const noexcept { return lanes_.outstanding(); }
    /// For any thread, also while another waits here.
    Lanes::Seen seen() const noexcept { return lanes_.seen(registry.file); }

    /// The channel has ended for this member: all lanes are over and nothing can come back to it.
    /// `waits`: says so to the others of its stage, who then do not wait for what it holds.
    bool ended(bool waits = true) {
        const ChannelFile& c = registry.file;
        const uint64_t epoch = c.header().lanes_epoch.load(seq_cst);
        if (epoch != lanes_.epoch) return false;
        if (lanes_.pending) refresh();
        if (lanes_.pending) return false;
        if (!lanes_.any) return closed();
        for (const auto& lane : lanes_)
            if (!lane->at_end()) return false;
        if (waits) {
            at_end_ = true;
            if (registry.me().at_end.exchange(1, seq_cst) == 0 && shared_)  // the word before the others' words
                registry.wake_stage(stage_index_);
        }
        if (lanes_.some([&](const LaneReader& lane) { return !finished(lane); })) return false;
        return c.header().lanes_epoch.load(seq_cst) == epoch;
    }

    /// The channel was replaced or removed: nothing will come here any more.
    bool closed() const noexcept {
        return state_in<ChannelState>(registry.file.header().state.load(seq_cst)) == ChannelState::closed;
    }
    /// This receiver itself holds every slot of all open lanes, and will end none by itself: none of them can send.
    bool hoards() const noexcept { return held_back.load(relaxed) == 0 && lanes_.hoarded(); }

    /// The same for who does not wait: looks after the others when it is time. What it holds it may hand on yet.
    bool ended_now() {
        if (registry.due()) look_after_others();
        const bool waits = waits_ || !shared_ || outstanding() == 0;
        if (at_end_ && !waits) not_at_end();
        return ended(waits);
    }

    /// After `ended()`: a sender died or failed and none has come since.
    bool sender_lost() const noexcept {
        const ChannelHeader& h = registry.file.header();
        return h.lost_epoch.load(seq_cst) != 0 && h.lost_epoch.load(seq_cst) == h.lanes_epoch.load(seq_cst);
    }

    /// Finds new lanes, forgets those that were removed.
    void refresh() {
        if (lanes_.refresh(registry.file, registry.id)) orphans_seen_ = ~0ull;
    }

    /// Leaves the stage; views may live on. The last `settle` or this call gives the place back.
    void close() noexcept {
        disarm(false);
        registry.let_go_of(stage_.holder);
        registry.me().at_end.store(1, seq_cst);  // what it keeps it will not hand on: colleagues need not wait
        registry.leaving();
        if (registry.graph().close_if_deserted(stage_index_))
            registry.wake_everybody();
        else
            registry.wake_stage(stage_index_);
    }

private:
    StageRecord& stage_;
    uint32_t stage_index_;
    bool writes_;
    bool shared_;         // several members may take
    Lanes lanes_;
    bool at_end_ = false;  // our at_end word is set
    bool waits_ = false;   // armed by one who waits
    uint64_t orphans_seen_ = 0;
    std::atomic<uint64_t> graph_{0};   // the channel's when last looked at
    std::atomic<uint32_t> behind_{0};  // stages that wait for this one
    WakerFence fence_;
    Spinner spinner_;
    Bed standby_;

    /// Any thread: stages were added behind us, or have gone.
    void look_behind() noexcept {
        const uint64_t now = registry.file.header().graph.load(acquire);
        behind_.store(registry.graph().behind(stage_index_), relaxed);
        graph_.store(now, relaxed);
    }

    /// Takes a run of consecutive messages at the lane's cursor.
    bool take_run(size_t i, uint64_t limit, Taken& out) {
        do {
            LaneReader& lane = lanes_[i];
            const Cursor at = lane.next;
            const uint64_t n = take_ready(lane, at, std::min(limit, lane.slab.capacity - at.slot), at.slot);
            if (n == 0) continue;
            out = {&lane, at.slot, at.lap, n, 0, lane.plain ? lane.slab.at(at.slot) : lane.slab.data(at.slot)};
            took(lane, n);
            return true;
        } while (pass_one(lanes_[i]) || to_next_slab(i));
        return false;
    }

    /// Where a lane is read up to the close of its slab: goes on in the next one.
    bool to_next_slab(size_t i) {
        if (!lanes_[i].closed_here() || !lanes_.to_next_slab(registry.file, i)) return false;
        orphans_seen_ = ~0ull;  // it may have some
        return true;
    }
    /// The same for who cannot say what is wrong with a damaged slab: the next take does.
    bool peek_next_slab(size_t i) noexcept {
        try {
            return to_next_slab(i);
        } catch (const std::exception&) {
            return false;
        }
    }

    /// How many messages at the cursor `take_ready` would make ours.
    uint64_t run_there(const LaneReader& lane, uint64_t limit) const noexcept {
        const Cursor& at = lane.next;
        const uint64_t ready = word(at.lap, Ready::ready), most = std::min(limit, lane.slab.capacity - at.slot);
        bool drop = false;
        uint64_t n = 0;
        while (n < most && (!shared_ || lap_of(lane.own[at.slot + n].load(acquire)) < at.lap) &&
               lane.slab.ready[at.slot + n].load(acquire) == ready && lane.alike(at.slot + n, at.slot) &&  // PUBLISH
               lane.let_go_before(at.slot + n, at.lap, drop) && !drop)
            ++n;
        return n;
    }

    /// Makes up to `most` slots ours, in order, of the type that lies in slot `like`; how many.
    uint64_t take_ready(const LaneReader& lane, const Cursor& at, uint64_t most, uint64_t like) noexcept {
        const uint64_t ready = word(at.lap, Ready::ready), taken = word(at.lap, Ack::taken, registry.id);
        const Atomic64* published = lane.slab.ready + at.slot;
        Atomic64* own = lane.own + at.slot;
        uint64_t n = 0;
        if (lane.alone && !at_end_ && (lane.plain || (most == 1 && like == at.slot))) {  // the loop below without its checks
            for (; n < most && published[n].load(acquire) == ready; ++n) own[n].store(taken, relaxed);  // PUBLISH
            return n;
        }
        for (; n < most; ++n) {
            uint64_t mine = shared_ ? own[n].load(acquire) : 0;
            if (shared_ && lap_of(mine) >= at.lap) break;  // taken by another
            if (published[n].load(acquire) != ready) break;  // PUBLISH
            bool drop = false;
            if (!lane.plain && (!lane.alike(at.slot + n, like) || !lane.let_go_before(at.slot + n, at.lap, drop) || drop)) break;
            if (at_end_) not_at_end();
            if (!shared_)
                own[n].store(taken, relaxed);
            else if (!own[n].compare_exchange_strong(mine, taken, acq_rel, relaxed))  // TAKE
                break;
        }
        return n;
    }

    /// The lane whose next message was sent first, by its timestamp.
    size_t oldest() {
        size_t first = lanes_.turn;
        uint64_t sent = kForever;
        for (size_t i = 0; i < lanes_.size(); ++i) {
            while ((shared_ && lanes_[i].pass_taken()) || to_next_slab(i)) {
            }
            const LaneReader& lane = lanes_[i];
            if (!lane.slab.stamps || !lane.more()) continue;
            if (const uint64_t t = lane.slab.stamps[lane.next.slot].load(relaxed); t < sent) sent = t, first = i;
        }
        return first;
    }

    /// Moves the cursor over one slot that is not for us: taken by another, SKIP, dropped before, or a hole.
    bool pass_one(LaneReader& lane) noexcept {
        if (shared_ && lane.pass_taken()) return true;
        const Slab& slab = lane.slab;
        const Cursor at = lane.next;
        uint64_t mine = lane.own[at.slot].load(acquire);
        if (shared_ && lap_of(mine) >= at.lap) return true;  // taken just now
        const uint64_t published = slab.ready[at.slot].load(acquire);  // PUBLISH
        const bool skip = published == word(at.lap, Ready::skip);
        if (!skip && published != word(at.lap, Ready::ready)) return pass_hole(lane);
        bool drop = false;
        if (!lane.let_go_before(at.slot, at.lap, drop)) return false;
        if (!skip && !drop) return true;  // came just now: take it
        if (at_end_) not_at_end();
        const uint64_t passed = word(at.lap, Ack::done) | (drop ? kDrop : 0);
        if (!shared_)
            lane.own[at.slot].store(passed, release);  // END
        else if (!lane.own[at.slot].compare_exchange_strong(mine, passed, acq_rel, relaxed))
            return true;
        lane.next.advance(slab.capacity);
        wake_others(lane);
        return true;
    }

    /// Our at_end word is cleared before the next take.
    void not_at_end() noexcept {
        at_end_ = false;
        registry.me().at_end.store(0, seq_cst);
    }

    /// Could messages that come next lie behind these? Never behind redelivered ones, nor in another slab.
    static bool may_extend(const Taken& got) noexcept {
        return got.deaths == 0 && got.slot + got.count < got.lane->slab.capacity && got.lane->next.slot == got.slot + got.count &&
               got.lane->next.lap == got.lap && !got.lane->closed_here();
    }

    /// Takes what is there behind `got`; false when nothing was added.
    bool extend(Taken& got, uint64_t limit) {
        LaneReader& lane = *got.lane;
        if (got.count >= limit || !may_extend(got)) return false;
        const uint64_t n =
            take_ready(lane, lane.next, std::min(limit - got.count, lane.slab.capacity - lane.next.slot), got.slot);
        took(lane, n);
        got.count += n;
        return n != 0;
    }

    /// Moves the cursor behind `n` messages that are ours now.
    void took(LaneReader& lane, uint64_t n) noexcept {
        if (n == 0) return;
        lane.next.advance(lane.slab.capacity, n);
        lane.taken.store(lane.taken.load(relaxed) + n, relaxed);
        if (shared_ && stage_.idle.load(relaxed) != 0 && (lane.more() || lane.closed_here())) registry.wake_one(stage_.idle, 0);
    }

    /// Names a message that could be taken; 0: none.
    uint64_t peek() noexcept {
        if (registry.file.header().lanes_epoch.load(seq_cst) != lanes_.epoch) return 0;  // no publish: joins wake all,
        if (stage_.orphans.load(seq_cst) != orphans_seen_ && (orphans_seen_ != ~0ull || orphan_there())) return 0;  // burials too
        for (size_t i = 0; i < lanes_.size(); ++i) {
            while ((shared_ && lanes_[i].pass_taken()) || peek_next_slab(i)) {
            }
            if (const LaneReader& lane = lanes_[i]; lane.more()) return lane.join << 40 ^ (lane.next.position + 1);
        }
        return 0;
    }

    /// In the lane of a dead sender an unpublished position is passed over that has a published one after it, or a close.
    bool pass_hole(LaneReader& lane) noexcept {
        if (lane.over || !lane.is(LaneState::lost)) return false;
        if (lane.closed_here()) return false;
        if (lap_of(lane.published()) >= lane.next.lap) return false;  // published before its sender died
        const Slab& slab = lane.slab;
        Cursor q = lane.published_behind();
        if (q.position == lane.next.position && slab.end() != ~0ull) q = Cursor::at(slab.end(), slab.first, slab.capacity);
        lane.over = q.position == lane.next.position;
        lane.next = q;
        return !lane.over;
    }
    bool orphan_there() noexcept {
        const uint64_t seen = stage_.orphans.load(seq_cst);
        const bool found = lanes_.some([](const LaneReader& lane) {
            for (uint64_t s = 0; s < lane.slab.capacity; ++s)
                if (const uint64_t w = lane.own[s].load(acquire); ack_of(w) == Ack::orphan && lane.ours(s, w)) return true;
            return false;
        });
        if (!found) orphans_seen_ = seen;  // none left that we could have missed
        return found;
    }
    bool take_orphan(Taken& out) {
        const uint64_t seen = stage_.orphans.load(seq_cst);
        const bool found = lanes_.some([&](LaneReader& lane) {
            for (uint64_t s = 0; s < lane.slab.capacity; ++s) {
                uint64_t w = lane.own[s].load(acquire);
                if (ack_of(w) != Ack::orphan || !lane.ours(s, w)) continue;
                if (at_end_) not_at_end();
                const uint64_t taken = word(lap_of(w), Ack::taken, registry.id) | (w & (kDirty | kDeaths));
                if (!lane.own[s].compare_exchange_strong(w, taken, seq_cst)) continue;
                out = {&lane, s, lap_of(w), 1, deaths_of(w), lane.slab.data(s)};
                lane.taken.store(lane.taken.load(relaxed) + 1, relaxed);
                return true;
            }
            return false;
        });
        if (!found) orphans_seen_ = seen;  // none left that we could have missed
        return found;
    }

    bool finished(const LaneReader& lane) const noexcept {
        for (uint64_t s = 0; s < lane.slab.capacity; ++s) {
            const uint64_t w = lane.own[s].load(seq_cst);
            if (!lane.ours(s, w)) continue;
            if (ack_of(w) == Ack::orphan) return false;
            const uint64_t owner = owner_of(w);
            if (ack_of(w) == Ack::taken && owner != registry.id &&
                (owner >= kMaxReceivers || registry.file.member(owner).at_end.load(seq_cst) == 0 ||
                 !registry.living(owner)))  // the word, then at_end, then life
                return false;
        }
        return true;
    }

    static void settle(const Taken& t) noexcept {
        t.lane->ended.store(t.lane->ended.load(relaxed) + t.count, release);  // SETTLE
    }

    void wake_others(const LaneReader& lane) noexcept {
        fence_();
        if (registry.file.header().graph.load(relaxed) != graph_.load(relaxed)) [[unlikely]]
            look_behind();
        each_bit(behind_.load(relaxed), [&](uint32_t s) {
            if (Atomic64& idle = registry.file.stage(s).idle; idle.load(relaxed) != 0) registry.wake_one(idle, 0);
        });
        const uint64_t sender = 1ull << lane.index;
        Atomic64& senders = registry.file.header().senders_idle;
        if ((senders.load(relaxed) & sender) && (senders.fetch_and(~sender, seq_cst) & sender))
            registry.wake(kMaxReceivers + lane.index);
        if (shared_ && stage_.idle.load(relaxed) != 0 && !lane.is(LaneState::open))
            registry.wake_stage(stage_index_);  // members that wait for the end
    }
};

}  // namespace psyne
