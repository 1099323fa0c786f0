// The sending end and its lane: loan, commit, discard; close. The slots are those of a ring, or of a chain of rings.
#pragma once

#include <memory>

#include <psyne/dynamic_ring_buffer.hpp>
#include <psyne/waiting.hpp>

namespace psyne {

struct SenderOptions {
    uint64_t stride = 0;
    uint64_t capacity = 0;
    SideColumns columns = {};
    Spinner::Mode wait = Spinner::Mode::adaptive;
    Growth growth = {};
    uint64_t room = 0;       // bytes of a slot that a message may use; 0: all
    uint64_t alignment = 1;  // of messages, in rings that come later
};

class Sender {
public:
    Registry registry;
    std::atomic<bool> stopping{false};  // set by close() of any thread: waits end

    /// `r` is enlisted and counted in.
    Sender(Registry r, Spinner::Mode mode)
        : registry(std::move(r)), gates_{&registry.file, lane_index()}, fence_(registry.file.header()), spinner_(mode),
          standby_(registry, registry.file.header().senders_idle, kMaxReceivers, true) {}

    /// Makes the first slab, and opens the lane. Throws Errc::no_space.
    void begin(const SenderOptions& options) {
        const ChannelFile& c = registry.file;
        LaneRecord& lane = c.lane(lane_index());
        lane.end.store(0, seq_cst);
        lane.grows.store(0, seq_cst);
        for (Atomic64& admitted : lane.admitted) admitted.store(0, seq_cst);
        const SlabSpec spec{options.room != 0 ? options.room : c.shape.payload_bytes, options.stride, options.capacity,
                            c.shape.stage_count, options.columns, c.shape.payload_bytes};
        if (options.growth) {
            dynamic_ = std::make_unique<DynamicRingBuffer>(
                gates_, registry.join(), spec, options.growth,
                [spec, options](uint64_t room) {
                    return room == spec.room ? spec.stride : payload_stride(room, options.alignment, options.alignment);
                },
                [this] { registry.wake(registry.id); });
        } else {
            fixed_slab_ = std::make_unique<SlabAllocator>(c, lane_index(), registry.join());
            fixed_slab_->begin();
            fixed_ = std::make_unique<RingBuffer>(fixed_slab_->allocate(spec), gates_);
            fixed_slab_->link(fixed_->slab, 0);
        }
        wakes_taps_ = (registry.graph().mutating() & registry.graph().declared()) == 0;
        look_at_graph();
        lane.state.store(stated(registry.join(), LaneState::open), seq_cst);  // LANE OPEN
        c.header().lanes_epoch.fetch_add(1, seq_cst);
        registry.wake_everybody();
        if (dynamic_) dynamic_->start();
    }
    ~Sender() {
        if (!registry.file.fd()) (void)dynamic_.release();  // a forked child: its thread and its locks are the parent's
    }

    // Of the newest ring, from any thread.
    uint64_t capacity() const noexcept { return newest([](const RingBuffer& r) { return r.slab.capacity; }); }
    uint64_t stride() const noexcept { return newest([](const RingBuffer& r) { return r.slab.stride; }); }
    uint64_t room() const noexcept { return newest([](const RingBuffer& r) { return r.slab.room; }); }
    uint64_t position() const noexcept { return newest([](const RingBuffer& r) { return r.next.position; }); }
    /// Of a ring that does not grow.
    const Slab& slab() const noexcept { return ring().slab; }
    bool grows() const noexcept { return dynamic_ != nullptr; }

    /// Takes `n` consecutive slots to write; false while they are not let go by all stages. `bytes`: of one message that may
    /// be longer than a slot.
    bool try_loan(uint64_t n, Loan& loan, uint64_t bytes = 0) {
        const Turn turn(turns());
        if (registry.file.header().graph.load(relaxed) != graph_) [[unlikely]]
            look_at_graph();
        RingBuffer* r = &ring();
        if (bytes > r->slab.room || n > r->slab.capacity) [[unlikely]] {
            if (!make_fit(n, bytes)) return false;
            r = &ring();
        }
        if (n > r->rest_of_lap()) [[unlikely]] {
            if (!begin_lap(n)) return false;
            r = &ring();
        }
        if (!r->claimed(n)) [[unlikely]] {
            if (!claim(n)) return false;
            r = &ring();
        }
        r->lend(n, loan);
        if (!r->slab.extents || dynamic_->settle_in(loan, bytes)) [[likely]]
            return true;
        r->give_back(loan, 0, false);
        return false;
    }

    /// Publishes the first `n` slots of a loan, in order; the rest was never there.
    /// `pinned`: slots that are given back must not be lent again at once, because own arrays still use them or
    /// another thread is in loan().
    void commit(const Loan& loan, uint64_t n, bool pinned = false) noexcept {
        if (n < loan.count) give_back(loan, n, pinned);
        loan.ring->publish(loan, n, dropped_);  // last: a closed ring may be gone after it
        wake_receivers();
    }

    /// Takes a loan back: nothing was sent.
    void discard(const Loan& loan, bool pinned = false) noexcept {
        if (give_back(loan, 0, pinned)) wake_receivers();
    }

    // ---- a loan that is sent when work of a device is done, by another thread -----------------------------------------

    /// The sender's own part of commit(). Until publish() or withdraw() the first `n` slots are those of an open loan.
    /// How many messages were dropped just before: only this loan knows it now.
    uint64_t hold_back(Loan& loan, uint64_t n, bool pinned) noexcept {
        if (n < loan.count) give_back(loan, n, pinned);
        loan.count = n;
        const uint64_t before = dropped_;
        loan.ring->prepare(loan, n, dropped_);
        return before - dropped_;
    }
    /// The rest of it, from any thread: only words of this loan are written, and nothing of the sender's own.
    void publish(const Loan& loan) noexcept {
        loan.ring->publish(loan, loan.count);  // last: a closed ring may be gone after it
        wake_receivers();
    }
    /// Its slots become SKIP; from any thread.
    void withdraw(const Loan& loan) noexcept { discard(loan, true); }

    /// Counts messages that full="drop" did not send.
    void drop(uint64_t n) noexcept { dropped_ += n; }
    /// From the first message on each says how many were dropped in all. Not of a ring that grows.
    void sum_drops() noexcept { fixed_->sums_drops = true; }

    /// For who does not wait: looks after the others when it is time.
    void look_after_others() {
        if (registry.due()) registry.bury_dead();
    }

    /// Waits for `n` slots to loan.
    template <class Tick>
    Wait loan(uint64_t n, Loan& loan, uint64_t deadline, Tick&& tick, uint64_t bytes = 0) {
        return wait(
            deadline, [&] { return try_loan(n, loan, bytes); },
            [&] { return stopping.load(relaxed) || blocked_by_own_view(n); }, [&] { return peek(n, bytes); }, tick);
    }

    /// Would loan() return at once? Lends nothing.
    bool ready() const noexcept { return stopping.load(relaxed) || peek(1) != 0 || blocked_by_own_view(1); }
    /// The same for `n` consecutive slots, which perhaps skips the rest of a lap.
    bool room(uint64_t n) {
        Loan loan;
        const bool yes = try_loan(n, loan);
        if (yes) discard(loan);
        return yes;
    }
    /// For event loops: from here on whoever makes room rings `bell`. Look again afterwards.
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
        look_after_others();
        return standby_.look([&] { return peek(1); });
    }

    /// Waits until every stage has passed all that was sent.
    template <class Tick>
    Wait drain(uint64_t deadline, Tick&& tick) {
        return wait(
            deadline, [&] { return passed(); }, [&] { return stopping.load(relaxed); },
            [&] { return uint64_t{passed()}; }, tick);
    }

    /// Every stage has passed all that was sent.
    bool passed() const noexcept {
        bool all = true;
        each_ring([&](const RingBuffer& r) { all = all && r.passed(); });
        return all;
    }

    /// The first position from `from` on whose slot may not be lent again: not all stages have let it go, or it was not
    /// sent. Of a ring that does not grow.
    uint64_t let_go_until(uint64_t from) const noexcept {
        const RingBuffer& r = ring();
        Cursor c = Cursor::at(from, r.slab.first, r.slab.capacity);
        while (c.position < r.next.position) {
            const uint64_t most = std::min(r.next.position - c.position, r.slab.capacity - c.slot);
            const uint64_t run = r.free_run({c.position + r.slab.capacity, c.slot, c.lap + 1}, most);
            if (run == 0) break;
            c.advance(r.slab.capacity, run);
        }
        return c.position;
    }

    /// Slots that somebody still has to read, or holds; own views count.
    uint64_t occupied() const noexcept {
        uint64_t sum = 0;
        each_ring([&](const RingBuffer& r) { sum += r.occupied(); });
        return sum;
    }
    /// Sent slots that own views still use.
    uint64_t held() const noexcept {
        uint64_t sum = 0;
        each_ring([&](const RingBuffer& r) { sum += r.held(); });
        return sum;
    }
    /// How often it grew, and why it changed last. Cheaper than all that growth() says.
    std::pair<uint64_t, std::string> last_change() const { return dynamic_ ? dynamic_->last_change() : std::pair<uint64_t, std::string>{}; }
    /// Why it cannot grow; "": it could, or does not.
    std::string refused() const { return dynamic_ ? dynamic_->refused() : ""; }
    /// Of a ring that grows; of another one only what it has.
    DynamicRingBuffer::Seen growth() const {
        if (dynamic_) return dynamic_->seen();
        return {1, fixed_slab_->reserved(), fixed_->slab.resident(), 0, 0, ""};
    }

    /// Of the next `n` slots the first that is not free was let go by all stages: only own arrays still use it.
    bool blocked_by_own_view(uint64_t n) const noexcept {
        const Turn turn(turns());
        return ring().blocked_by_own_view(n) && (!dynamic_ || !dynamic_->may_grow());
    }

    /// Consecutive slots that are left in this lap.
    uint64_t rest_of_lap() const noexcept {
        const Turn turn(turns());
        return ring().rest_of_lap();
    }

    /// Why the ring is full, for people.
    std::string why_full() const {
        const Turn turn(turns());
        const std::string limit = dynamic_ && !dynamic_->may_grow() ? "; it cannot grow: " + dynamic_->refused() : "";
        const RingBuffer& r = ring();
        const Cursor& next = r.next;
        if (!limit.empty() && r.free_run(next, 1) == 1) return "a slot is free, but there is no memory for a message of this length" + limit;
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gates_.gate(s, r.slab);
            if (!gate.row) continue;
            if (lap_of(r.slab.ready[next.slot].load(relaxed)) + 1 < next.lap) break;  // not even sent
            if (next.lap == 1 || gate.let_go(r.slab, next.slot, next.lap - 1, Next::writes)) continue;
            return who_holds(s, gate.word(next.slot), next.lap - 1, "the oldest message") + limit;
        }
        return (r.blocked_by_own_view(1) ? "your own arrays still use the oldest slot" : "the slots are your own open loans") + limit;
    }

    /// Why drain() still waits, for people.
    std::string why_not_passed() const {
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            uint64_t left = 0;
            each_ring([&](const RingBuffer& r) {
                const Gate gate = gates_.gate(s, r.slab);
                if (!gate.row) return;
                r.each_lent([&](const Cursor& k) { left += !gate.let_go(r.slab, k.slot, k.lap, Next::reads); });
            });
            if (left != 0) return "stage '" + load_name(registry.file.stage(s).name) + "' has " + std::to_string(left) + " messages to pass";
        }
        return "all was passed just now";
    }

    // ---- call(): one's own message, whose slots are held, is waited for -----------------------------------------

    /// Every stage has passed the messages of this loan.
    bool passed(const Loan& loan) const noexcept {
        for (uint64_t i = 0; i < loan.count; ++i)
            if (!loan.ring->let_go_by_all(loan.slot + i, loan.lap, Next::reads)) return false;
        return true;
    }

    /// The first stage that took one of them out of the pipeline; kMaxStages: none.
    uint32_t taken_out_by(const Loan& loan) const noexcept {
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gates_.gate(s, loan.ring->slab);
            for (uint64_t i = 0; gate.row && i < loan.count; ++i)
                if (gate.dropped(loan.slot + i, loan.lap)) return s;
        }
        return kMaxStages;
    }

    /// Waits until every stage has passed them.
    template <class Tick>
    Wait await_passed(const Loan& loan, uint64_t deadline, Tick&& tick) {
        return wait(
            deadline, [&] { return passed(loan); }, [&] { return stopping.load(relaxed); },
            [&] { return uint64_t{passed(loan)}; }, tick);
    }

    /// Why await_passed() still waits, for people.
    std::string why_not_passed(const Loan& loan) const {
        for (uint32_t s = 0; s < kMaxStages; ++s) {
            const Gate gate = gates_.gate(s, loan.ring->slab);
            for (uint64_t i = 0; gate.row && i < loan.count; ++i)
                if (!gate.let_go(loan.ring->slab, loan.slot + i, loan.lap, Next::reads))
                    return who_holds(s, gate.word(loan.slot + i), loan.lap, "it");
        }
        return "all stages passed it just now";
    }

    /// Ends the lane. `failed`: receivers get SenderLost instead of the end.
    void close(bool failed) noexcept {
        disarm(true);
        ChannelFile& c = registry.file;
        if (dynamic_) dynamic_->stop();
        each_ring([](RingBuffer& r) { r.skip_open_loans(); });
        LaneRecord& lane = c.lane(lane_index());
        lane.end.store(ring().next.position + 1, seq_cst);
        if (failed) registry.count_lost();
        lane.state.store(stated(registry.join(), LaneState::ended), seq_cst);
        registry.let_go_of(c.header().sender_holder);
        registry.wake_everybody();
    }

private:
    Gates gates_;
    std::unique_ptr<DynamicRingBuffer> dynamic_;  // or
    std::unique_ptr<SlabAllocator> fixed_slab_;
    std::unique_ptr<RingBuffer> fixed_;
    uint64_t dropped_ = 0;    // since the last message that was sent
    bool wakes_taps_ = true;  // no declared stage writes: then its members do
    uint64_t graph_ = 0;      // the channel's when last looked at
    std::atomic<uint32_t> first_{0};  // stages right behind the sender
    WakerFence fence_;
    Spinner spinner_;
    Bed standby_;

    uint64_t lane_index() const noexcept { return registry.id - kMaxReceivers; }

    /// Stages were added, or have gone. The former are admitted from the next loan on, each after those it waits for.
    void look_at_graph() {
        const Graph graph(registry.file);
        uint64_t now = registry.file.header().graph.load(seq_cst);
        uint32_t gates = 0;
        for (uint32_t left = added_in(now) & ~graph.declared(); left != 0;)
            each_bit(left, [&](uint32_t s) {
                if (!(left >> s & 1)) return;
                const uint64_t stage = graph.opened(s);
                if (registry.file.stage(s).ancestors.load(relaxed) & left) return;
                if (const uint64_t g = registry.file.header().graph.load(seq_cst); g != now) {  // its record may be another's
                    now = g;
                    left = added_in(now) & ~graph.declared();
                    gates = 0;
                    return;
                }
                left &= ~(1u << s);
                if (admit(s, stage)) gates |= 1u << s;
            });
        gates_.added.store(gates, release);
        first_.store(graph.first(), relaxed);
        graph_ = now;
    }

    /// True: the stage has a say here.
    bool admit(uint32_t s, uint64_t stage) {
        LaneRecord& lane = registry.file.lane(lane_index());
        uint64_t as = lane.admitted[s].load(relaxed);
        if ((as & ~kRefused) != generation_in(stage)) {
            if (state_in<StageState>(stage) != StageState::open) return false;
            as = generation_in(stage);
            try {
                ring().slab.back_row(registry.file.storage(), s);
            } catch (const Error&) {  // its members are told
                as |= kRefused;
            }
            lane.from[s].store(ring().next.position, release);
            lane.admitted[s].store(as, seq_cst);  // ADMIT
            registry.wake_stage(s);
        }
        return (as & kRefused) == 0;
    }

    Turns* turns() const noexcept { return dynamic_ ? &dynamic_->turns : nullptr; }
    /// The ring that is lent from.
    RingBuffer& ring() const noexcept { return dynamic_ ? dynamic_->current() : *fixed_; }
    template <class F>
    uint64_t newest(F&& f) const noexcept { return dynamic_ ? dynamic_->newest(f) : f(*fixed_); }
    template <class F>
    void each_ring(F&& f) const {
        if (dynamic_) dynamic_->each(f);
        else f(*fixed_);
    }

    /// The ring has no room for `n` more slots. True: the lane goes on in another one.
    [[gnu::noinline, gnu::cold]] bool grow(uint64_t n) { return dynamic_ && dynamic_->grow(n); }
    /// Consecutive slots: the rest of this lap is skipped, or the lane goes on in another ring.
    [[gnu::noinline, gnu::cold]] bool begin_lap(uint64_t n) {
        if (!ring().claim(ring().rest_of_lap())) return grow(n);
        ring().skip_rest();
        wake_receivers();
        return true;
    }
    /// Some more slots, in this ring or in another one.
    [[gnu::noinline]] bool claim(uint64_t n) {
        if (!ring().claim(n) && !(grow(n) && ring().claim(n))) return false;
        if (dynamic_) dynamic_->look_ahead();
        return true;
    }
    /// A message is longer than a slot, or a batch than the ring.
    [[gnu::noinline, gnu::cold]] bool make_fit(uint64_t n, uint64_t bytes) {
        if (!dynamic_) return false;
        if (bytes > ring().slab.room && dynamic_->place(bytes) == DynamicRingBuffer::Where::nowhere) return false;
        return n <= ring().slab.capacity || dynamic_->grow_to(n);
    }
    /// Names what could be lent; 0: nothing.
    uint64_t peek(uint64_t n, uint64_t bytes = 0) const noexcept {
        const Turn turn(turns());
        const RingBuffer& r = ring();
        if (bytes > r.slab.room) return 0;  // it waits for memory, and nobody wakes for that
        const uint64_t k = std::min(n, r.rest_of_lap());
        return r.free_run(r.next, k) == k || (dynamic_ && dynamic_->prepared()) ? r.next.position + 1 : 0;
    }

    /// Pinned slots become SKIP, which needs no turn: another thread may be in its own.
    bool give_back(const Loan& loan, uint64_t n, bool pinned) noexcept {
        const Turn turn(pinned ? nullptr : turns());
        if (dynamic_) Extents::leave(loan);
        return loan.ring->give_back(loan, n, pinned);
    }

    /// Stage `s`, whose ack word is `w`, has not let go message `what` of `lap`: "stage 'infer' holds it (pid 812, infer.py)"
    std::string who_holds(uint32_t s, uint64_t w, uint64_t lap, const char* what) const {
        const ChannelFile& c = registry.file;
        const std::string stage = "stage '" + load_name(c.stage(s).name) + "' ";
        if (lap_of(w) == lap && (ack_of(w) == Ack::taken || ack_of(w) == Ack::passed))
            return stage + "holds " + what + " (" + registry.describe(owner_of(w)) + ")";
        uint64_t members = 0;
        for (uint64_t i = 0; i < kMaxReceivers; ++i)
            members += registry.present(i) && c.member(i).stage.load(relaxed) == s;
        if (members == 0) return stage + "has no member";
        return stage + "has not taken " + what + " (" + std::to_string(members) + (members > 1 ? " members)" : " member)");
    }

    void wake_receivers() noexcept {
        fence_();
        each_bit(first_.load(relaxed), [&](uint32_t s) {
            if (Atomic64& idle = registry.file.stage(s).idle; idle.load(relaxed) != 0) registry.wake_one(idle, 0);
        });
        if (wakes_taps_) registry.wake_taps();
    }

    template <class Ready, class Stop, class Peek, class Tick>
    Wait wait(uint64_t deadline, Ready&& ready, Stop&& stop, Peek&& peek, Tick&& tick) {
        return wait_for(registry, registry.file.header().senders_idle, kMaxReceivers, spinner_, deadline, ready, stop, peek,
                        [&] {
                            registry.bury_dead();
                            return tick();
                        });
    }
};

}  // namespace psyne
