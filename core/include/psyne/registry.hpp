// Who is in a channel: joining, leaving, asking the kernel who is dead, and burying the dead.
#pragma once

#include <algorithm>
#include <bit>
#include <memory>

#include <psyne/bell.hpp>
#include <psyne/eventcount.hpp>
#include <psyne/graph.hpp>
#include <psyne/lane_slabs.hpp>

namespace psyne {

/// This process, as others may check it.
struct Identity {
    int32_t pid;
    uint64_t start, pid_namespace;
    static Identity self() noexcept {
        const int32_t pid = ::getpid();
        return {pid, sys::process_start(pid), sys::pid_namespace()};
    }
};

/// What an end has found out about others, to be told and then cleared.
struct Burials {
    std::vector<std::string> dead;  // "pid 812, fusion.py"
    uint64_t redelivered = 0, poisoned = 0, dropped = 0;
};

/// One end's place in a channel.
class Registry {
public:
    static constexpr uint64_t kNobody = ~0ull;

    Registry(ChannelFile opened, std::string program)
        : file(std::move(opened)), program_(std::move(program)), self_(Identity::self()),
          bells_(std::make_unique<Bells>(file.shared_storage())) {}

    ChannelFile file;
    uint64_t id = kNobody;
    uint64_t word = 0;    // our MemberRecord.state while active
    uint64_t ticked = 0;  // when this end last looked after the others
    Burials burials;

    Graph graph() const noexcept { return Graph(file); }
    uint64_t join() const noexcept { return count_in(word); }
    const std::string& address() const noexcept { return file.address(); }
    MemberRecord& me() const noexcept { return file.member(id); }

    /// Wakes one member, from whatever thread.
    void wake(uint64_t i) const noexcept {
        MemberRecord& r = file.member(i);
        r.wakes.fetch_add(1, seq_cst);
        if (r.bell.load(seq_cst) == 0 || !bells_->ring(i, count_in(r.state.load(seq_cst)))) sys::futex_wake(r.wakes);
    }
    /// Claims one bit and wakes that member. `base` is the id of bit 0.
    void wake_one(Atomic64& mask, uint64_t base) const noexcept {
        for (uint64_t m = mask.load(seq_cst); m != 0; m = mask.load(seq_cst)) {
            const uint64_t bit = m & (~m + 1);
            if (mask.fetch_and(~bit, seq_cst) & bit) return wake(base + static_cast<uint64_t>(std::countr_zero(bit)));
        }
    }
    void wake_all(Atomic64& mask, uint64_t base) const noexcept {
        for (uint64_t m = mask.exchange(0, seq_cst); m != 0; m &= m - 1)
            wake(base + static_cast<uint64_t>(std::countr_zero(m)));
    }
    void wake_stage(uint32_t stage) const noexcept { wake_all(file.stage(stage).idle, 0); }
    void wake_everybody() const noexcept {
        each_bit(graph().all(), [&](uint32_t s) { wake_stage(s); });
        wake_all(file.header().senders_idle, kMaxReceivers);
        wake_taps();
    }
    /// All of them: each sees every message.
    void wake_taps() const noexcept {
        if (file.header().taps_idle.load(relaxed) != 0) [[unlikely]]
            wake_sleeping_taps();
    }

    /// Takes a free record of [low, high) with its life lock; false when there is none.
    bool enlist(uint64_t low, uint64_t high, uint32_t stage) {
        for (uint64_t i = low; i < high; ++i) {
            MemberRecord& r = file.member(i);
            const uint64_t seen = r.state.load(seq_cst);
            if (!reusable(i, seen) || !sys::lock_byte(file.fd(), kLifeLocks + i)) continue;
            if (r.state.load(seq_cst) != seen || !reusable(i, seen)) {
                sys::unlock_byte(file.fd(), kLifeLocks + i);
                continue;
            }
            id = i;
            word = stated(file.header().next_join.fetch_add(1, seq_cst) + 1, MemberState::active);
            r.sweeping.store(0, seq_cst);
            r.at_end.store(0, seq_cst);
            r.tap_at.store(0, seq_cst);
            r.bell.store(0, seq_cst);
            r.stage.store(stage, relaxed);
            r.pid.store(static_cast<uint64_t>(self_.pid), relaxed);
            r.start.store(self_.start, relaxed);
            r.pid_namespace.store(self_.pid_namespace, relaxed);
            store_name(r.name, program_);
            r.state.store(word, seq_cst);
            return true;
        }
        return false;
    }

    /// Counts a registered member in; false when the channel was closed meanwhile.
    bool count_in_channel() noexcept {
        Atomic64& state = file.header().state;
        uint64_t w = state.load(seq_cst);
        while (state_in<ChannelState>(w) == ChannelState::open)
            if (state.compare_exchange_weak(w, stated(count_in(w) + 1, ChannelState::open), seq_cst)) return true;
        return false;
    }

    /// Takes the one place that the pattern allows; false while a living member has it.
    bool hold(Atomic64& holder) {
        uint64_t w = holder.load(seq_cst);
        for (;;) {
            if (w != 0 && living_word(w)) return false;
            if (holder.compare_exchange_strong(w, word, seq_cst)) return true;
        }
    }
    void let_go_of(Atomic64& holder) const noexcept {
        uint64_t w = word;
        holder.compare_exchange_strong(w, 0, seq_cst);
    }

    /// Takes nothing any more, keeps id and life lock while views live.
    void leaving() noexcept { me().state.store(stated(join(), MemberState::leaving), seq_cst); }

    /// Frees the record and the life lock.
    void gone() noexcept {
        if (id == kNobody) return;
        me().state.store(stated(join(), MemberState::free), seq_cst);
        sys::unlock_byte(file.fd(), kLifeLocks + id);
        id = kNobody;
    }

    bool present(uint64_t i) const noexcept {
        const auto s = state_in<MemberState>(file.member(i).state.load(seq_cst));
        return s == MemberState::active || s == MemberState::leaving;
    }
    bool living(uint64_t i) const noexcept { return present(i) && !dead(i); }
    bool anybody_living() const noexcept {
        for (uint64_t i = 0; i < kMaxMembers; ++i)
            if (living(i)) return true;
        return false;
    }
    bool any_sender_living() const noexcept {
        for (uint64_t i = kMaxReceivers; i < kMaxMembers; ++i)
            if (living(i)) return true;
        return false;
    }

    /// The kernel's word, never a time-out: the life lock is free, or the process is not the one that joined.
    /// `thorough`: also a process that is gone while a forked child keeps its lock; a few system calls more.
    bool dead(uint64_t i, bool thorough = true) const noexcept {
        const MemberRecord& r = file.member(i);
        const uint64_t w = r.state.load(seq_cst);
        if (i == id || !present(i)) return false;
        const bool gone = !sys::byte_locked(file.fd(), kLifeLocks + i) ||
                          (thorough && self_.pid_namespace != 0 && r.pid_namespace.load(relaxed) == self_.pid_namespace &&
                           sys::process_dead(static_cast<int32_t>(r.pid.load(relaxed)), r.start.load(relaxed)));
        return gone && r.state.load(seq_cst) == w;
    }

    /// "pid 812, fusion.py"
    std::string describe(uint64_t i) const {
        if (i >= kMaxMembers) return "nobody that is known";  // a damaged word
        return "pid " + std::to_string(file.member(i).pid.load(relaxed)) + ", " + load_name(file.member(i).name);
    }

    /// Buries all dead members; true when there was one. Needs an own record.
    bool bury_dead() {
        bool any = false;
        const bool thorough = looks_++ % 10 == 0;
        for (uint64_t i = 0; i < kMaxMembers; ++i)
            if (present(i) && dead(i, thorough)) any |= bury(i);
        return any;
    }

    /// Of a word that this member has TAKEN, and that it can bring to no good end: as if it had died.
    void forsake(StageRecord& stage, Atomic64& ack) {
        Burials untold;
        bury_word(stage, ack, id, untold);
    }

    /// Closes the channel when no living member is left; true when this call closed it.
    bool close_if_empty() noexcept {
        Atomic64& state = file.header().state;
        uint64_t w = state.load(seq_cst);  // before the scan: a joiner in between makes the CAS fail
        if (file.storage().lasting() || state_in<ChannelState>(w) == ChannelState::closed || anybody_living()) return false;
        return state.compare_exchange_strong(w, stated(count_in(w), ChannelState::closed), seq_cst);
    }

    /// A sender is lost: receivers whose lanes have ended since get SenderLost, unless a new lane was opened.
    void count_lost() const noexcept {
        const uint64_t now = file.header().lanes_epoch.load(seq_cst);
        Atomic64& lost = file.header().lost_epoch;
        for (uint64_t w = lost.load(seq_cst); w < now && !lost.compare_exchange_weak(w, now, seq_cst);) {
        }
    }

    /// Whether it is time to look after the others again; then it is not for a slice.
    bool due() noexcept {
        const uint64_t now = sys::now_ns();
        if (now - ticked < kSlice) return false;
        ticked = now;
        return true;
    }

    /// Every published word of a slab let go by every stage?
    bool drained(const LaneRecord& lane, const Slab& slab) const noexcept {
        bool all = true;
        each_bit(graph().all(), [&](uint32_t s) {
            const Gate gate = graph().gate(s, lane, slab);
            for (uint64_t i = 0; all && gate.row && i < slab.capacity; ++i)
                all = gate.let_go(slab, i, lap_of(slab.ready[i].load(acquire)), Next::writes);
        });
        return all;
    }

    /// Removes lanes that have ended and were let go by all, and before that their closed slabs, in any order.
    void reap() {
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            LaneRecord& lane = file.lane(i);
            uint64_t w = lane.state.load(seq_cst);
            const auto s = state_in<LaneState>(w);
            if (s != LaneState::ended && s != LaneState::lost) continue;
            if (!reap_slabs(i, count_in(w), s == LaneState::lost)) continue;
            file.storage().remove_lane(count_in(w));  // files first: both steps may be done again
            lane.state.compare_exchange_strong(w, stated(count_in(w), LaneState::free), seq_cst);
        }
        file.storage().sweep();
    }

    /// Messages that die with the channel: those that the slowest stage never took.
    uint64_t unread() {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t w = file.lane(i).state.load(seq_cst);
            if (state_in<LaneState>(w) == LaneState::free) continue;
            uint64_t missing[kMaxStages] = {};
            each_slab(i, count_in(w), [&](const Slab& slab) {
                each_bit(graph().all(), [&](uint32_t s) { missing[s] += not_taken(graph().gate(s, file.lane(i), slab), slab); });
            });
            sum += *std::max_element(std::begin(missing), std::end(missing));
        }
        return sum;
    }

private:
    [[gnu::noinline, gnu::cold]] void wake_sleeping_taps() const noexcept {  // senders come by with each message
        wake_all(file.header().taps_idle, 0);
    }

    std::string program_;
    Identity self_;
    uint64_t looks_ = 0;
    std::unique_ptr<Bells> bells_;

    Slab attach(const SlabPlace& place) const {
        return Slab::attach(file.storage(), place, file.shape.payload_bytes, false, sys::Populate::no);
    }
    /// Calls `f` with each slab of a lane that is there.
    template <class F>
    void each_slab(uint64_t lane, uint64_t join, F&& f) const {
        for (const SlabPlace& place : slabs_of(file.lane(lane), lane, join))
            if (const Slab slab = attach(place)) f(slab);
    }
    /// True when nothing of the lane is left that somebody has not let go. Own views of a sender that closed are not known
    /// here: only of a dead one pages are given back that are mapped.
    bool reap_slabs(uint64_t lane, uint64_t join, bool lost) const {
        std::vector<Slab> slabs;
        std::vector<const Slab*> in_order;
        for (const SlabPlace& place : slabs_of(file.lane(lane), lane, join))
            if (Slab slab = Slab::attach(file.storage(), place, file.shape.payload_bytes, true, sys::Populate::no))
                slabs.push_back(std::move(slab));
        for (const Slab& slab : slabs) in_order.push_back(&slab);
        settle_skips(in_order, lost);
        bool all = true;
        for (size_t i = 0; i < slabs.size(); ++i) {
            const bool over = drained(file.lane(lane), slabs[i]);
            all = all && over;
            if (over && i + 1 < slabs.size() && slabs[i].end() != ~0ull && slabs[i + 1].header->skips_before.load(seq_cst) != 0)
                retire(file, slabs[i], lost);
        }
        return all;
    }
    /// Messages of a slab that a stage never took.
    static uint64_t not_taken(const Gate& gate, const Slab& slab) noexcept {
        uint64_t n = 0;
        for (uint64_t i = 0; gate.row && i < slab.capacity; ++i) {
            const uint64_t r = slab.ready[i].load(acquire);
            n += ready_of(r) == Ready::ready && !gate.let_go(slab, i, lap_of(r), Next::writes) && lap_of(gate.word(i)) < lap_of(r);
        }
        return n;
    }

    bool reusable(uint64_t i, uint64_t w) const noexcept {
        const auto s = state_in<MemberState>(w);
        if (s != MemberState::free && s != MemberState::swept) return false;
        if (i >= kMaxReceivers &&
            (state_in<LaneState>(file.lane(i - kMaxReceivers).state.load(seq_cst)) != LaneState::free ||
             !file.storage().vacant(i - kMaxReceivers)))
            return false;
        for (uint64_t k = 0; k < kMaxMembers; ++k)  // a stopped undertaker may still hold this id in its hand
            if (file.member(k).sweeping.load(seq_cst) == i + 1 && living(k)) return false;
        return true;
    }

    bool living_word(uint64_t w) const noexcept {
        for (uint64_t i = 0; i < kMaxMembers; ++i)
            if (file.member(i).state.load(seq_cst) == w) return !dead(i);
        return false;
    }

    bool bury(uint64_t d) {
        struct Sweeping {  // names the dead one in our record, also when burying fails
            MemberRecord& me;
            ~Sweeping() { me.sweeping.store(0, seq_cst); }
        } sweeping{me()};
        MemberRecord& r = file.member(d);
        uint64_t w = r.state.load(seq_cst);
        me().sweeping.store(d + 1, seq_cst);
        full_fence();
        const bool ours = r.state.load(seq_cst) == w && dead(d);
        if (ours) {
            burials.dead.push_back(describe(d));
            bells_->remove(count_in(w));
            if (d < kMaxReceivers) {
                bury_receiver(d, r.stage.load(relaxed), w);
                graph().bury(d);
            } else {
                bury_sender(d - kMaxReceivers, w);
            }
            r.state.compare_exchange_strong(w, stated(count_in(w), MemberState::swept), seq_cst);
            graph().clear();
            wake_everybody();
        }
        return ours;
    }

    void bury_receiver(uint64_t d, uint32_t stage_index, uint64_t w) {
        if (stage_index == kTapStage) {
            file.member(d).tap_at.store(0, seq_cst);
            file.header().taps_idle.fetch_and(~(1ull << d), seq_cst);
        }
        if (stage_index >= kMaxStages) return;
        StageRecord& stage = file.stage(stage_index);
        for (uint64_t i = 0; i < kMaxLanes; ++i) {
            const uint64_t lane = file.lane(i).state.load(seq_cst);
            if (state_in<LaneState>(lane) == LaneState::free) continue;
            each_slab(i, count_in(lane), [&](const Slab& slab) {
                if (!graph().gate(stage_index, file.lane(i), slab).row) return;
                for (uint64_t s = 0; s < slab.capacity; ++s) bury_word(stage, slab.row(stage_index)[s], d, burials);
            });
        }
        stage.idle.fetch_and(~(1ull << d), seq_cst);
        stage.holder.compare_exchange_strong(w, 0, seq_cst);
        stage.orphans.fetch_add(1, seq_cst);  // before SWEPT: a stopped undertaker must not hide the orphans
    }

    void bury_word(StageRecord& stage, Atomic64& ack, uint64_t d, Burials& seen) {
        uint64_t a = ack.load(seq_cst);
        if (owner_of(a) != d) return;
        uint64_t next = 0;
        Atomic64* counter = nullptr;
        uint64_t* told = nullptr;
        if (ack_of(a) == Ack::passed) {
            next = psyne::word(lap_of(a), Ack::done);
        } else if (ack_of(a) == Ack::taken) {
            const bool half_changed = (a & kDirty) && !stage.redelivers.load(relaxed);
            const bool poison = deaths_of(a) + 1 >= kMaxDeaths;
            if (half_changed || poison) {
                next = psyne::word(lap_of(a), Ack::done) | kDrop;
                counter = half_changed ? &file.header().dropped : &file.header().poisoned;
                told = half_changed ? &seen.dropped : &seen.poisoned;
            } else {
                next = psyne::word(lap_of(a), Ack::orphan) | (a & (kDirty | kDeaths));
                next += kDeath;
                counter = &file.header().redelivered;
                told = &seen.redelivered;
            }
        } else {
            return;
        }
        if (ack.compare_exchange_strong(a, next, seq_cst) && counter) {
            counter->fetch_add(1, relaxed);
            ++*told;
        }
    }

    void bury_sender(uint64_t lane_index, uint64_t w) {
        LaneRecord& lane = file.lane(lane_index);
        uint64_t open = lane.state.load(seq_cst);
        if (open == stated(count_in(w), LaneState::open)) {
            count_lost();  // before the lane says so: who sees it lost must not take that for a clean end
            lane.state.compare_exchange_strong(open, stated(count_in(w), LaneState::lost), seq_cst);
        } else if (count_in(open) != count_in(w)) {  // killed before its lane was open
            file.storage().remove_lane(count_in(w));
        }
        file.header().senders_idle.fetch_and(~(1ull << lane_index), seq_cst);
        file.header().sender_holder.compare_exchange_strong(w, 0, seq_cst);
    }
};

}  // namespace psyne
