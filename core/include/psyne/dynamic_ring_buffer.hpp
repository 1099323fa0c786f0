// A ring that grows and shrinks: a chain of rings, of which only the newest is lent from.
//
//   older: closed, read to their end, then retired                 current
//  ┌──────────┐   ┌──────────┐                                    ┌──────────────────┐
//  │ 0 … 63   │──▶│ 64 … 211 │── close = 1 + first of the next ──▶│ 212 …            │        prepared: nobody finds it yet
//  └──────────┘   └──────────┘                                    └──────────────────┘
//
// The sender goes on to another ring, in its turn (turn.hpp). A thread beside it prepares rings, retires them, gives back
// extents, and goes on to a smaller ring in the sender's name while that is out of its turn.
#pragma once

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include <psyne/extents.hpp>
#include <psyne/growth_policy.hpp>
#include <psyne/ring_buffer.hpp>
#include <psyne/slab_allocator.hpp>
#include <psyne/turn.hpp>

namespace psyne {

class DynamicRingBuffer {
public:
    /// What has become of it so far.
    struct Seen {
        uint64_t slabs = 0, reserved = 0, resident = 0, grown = 0, shrunk = 0;
        std::string why;  // the last change, or why there was none
    };

    /// The first ring is found by others from position 0 on. `stride_of`: bytes between messages of a size. `wake`: whoever
    /// waits for room looks again. Throws Errc::no_space.
    DynamicRingBuffer(const Gates& gates, uint64_t join, const SlabSpec& first, const Growth& growth,
                      std::function<uint64_t(uint64_t)> stride_of, std::function<void()> wake)
        : gates_(gates), first_(first), growth_(growth), stride_of_(std::move(stride_of)), wake_(std::move(wake)),
          allocator_(*gates.file, gates.lane, join, growth.budget),
          policy_(first.capacity, first.room, growth.shrink_after) {
        allocator_.begin();
        current_ = make(first);
        allocator_.link(current_->slab, 0);
        allocator_.record().grows.store(1, seq_cst);
    }
    DynamicRingBuffer(const DynamicRingBuffer&) = delete;
    DynamicRingBuffer& operator=(const DynamicRingBuffer&) = delete;
    ~DynamicRingBuffer() { stop(); }

    /// The thread begins; `stop` waits for it.
    void start() {
        sigset_t all, before;
        sigfillset(&all);  // signals are for the threads of the program
        pthread_sigmask(SIG_SETMASK, &all, &before);
        thread_ = std::thread([this] { run(); });
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    void stop() noexcept {
        if (!thread_.joinable()) return;
        {
            std::lock_guard guard(lock_);
            stopping_ = true;
        }
        bell_.notify_all();
        thread_.join();
        forget(std::move(prepared_));
    }

    /// Who has it may change the chain and the newest ring.
    Turns turns;

    // ---- in the sender's turn ------------------------------------------------------------------------------------

    RingBuffer& current() const noexcept { return *current_; }

    /// The ring is full: is there a larger one? Else it is prepared, and `wake` is called.
    bool grow(uint64_t slots) {
        std::unique_lock guard(lock_);
        loaded_at_ = sys::now_ns();
        if (!larger_is_there() || prepared_->slab.capacity < slots) {
            wish({GrowthPolicy::more_slots(current_->slab.capacity, slots), current_->slab.room});
            return false;
        }
        std::unique_ptr<RingBuffer> ring = std::move(prepared_);
        guard.unlock();
        return go_on(std::move(ring), Change::full);
    }
    /// Looks ahead: when the ring is half full, the next one is prepared.
    void look_ahead() {
        if (current_->let_go_half()) return;
        std::lock_guard guard(lock_);
        loaded_at_ = sys::now_ns();
        if (!larger_is_there()) wish({GrowthPolicy::more_slots(current_->slab.capacity, 0), current_->slab.room});
    }
    /// `n` consecutive slots are more than the ring has.
    bool grow_to(uint64_t n) {
        uint64_t slots = current_->slab.capacity;
        while (slots < n) slots *= 2;
        return go_on_at_once({slots, current_->slab.room}, Change::many_slots);
    }

    /// Where a message of `bytes` bytes goes, which is more than a slot has room for.
    enum class Where { extent, larger_slots, nowhere };
    Where place(uint64_t bytes) {
        RingBuffer& ring = *current_;
        const uint64_t extent = ring.slab.extent_stride();
        if (bytes > extent) return Where::nowhere;
        give_back_extents(ring);  // one who lends long messages without a break leaves the thread no turn
        const uint64_t room = std::min(policy_.longer_slots(ring.slab.room, bytes), extent);
        if (room == 0) return Where::extent;
        const Change why = bytes > GrowthPolicy::kExtentFrom * ring.slab.room ? Change::long_messages : Change::long_message;
        return go_on_at_once({GrowthPolicy::slots_of(ring.slab.capacity, ring.slab.room, room), room}, why) ? Where::larger_slots : Where::extent;
    }

    /// Gives a loan of one slot the memory for `bytes` bytes: its slot, or an extent. False without space.
    bool settle_in(Loan& loan, uint64_t bytes) {
        if (!loan.ring->slab.extents) return true;
        policy_.saw(bytes);
        if (bytes > loan.ring->slab.room) [[unlikely]]
            return settle_beside(loan, bytes);
        policy_.fitted();
        Extents::leave(loan);
        return true;
    }

    // ---- at any time ---------------------------------------------------------------------------------------------

    /// Is a larger ring there, for one that is full?
    bool prepared() const noexcept {
        std::lock_guard guard(lock_);
        return larger_is_there();
    }
    /// Could it still grow?
    bool may_grow() const noexcept {
        std::lock_guard guard(lock_);
        return refused_.empty();
    }
    /// "": it could; else why not.
    std::string refused() const {
        std::lock_guard guard(lock_);
        return refused_;
    }
    /// What `f` says of the newest ring.
    template <class F>
    uint64_t newest(F&& f) const {
        std::lock_guard guard(lock_);
        return f(*current_);
    }
    /// Calls `f` with each ring, the oldest first.
    template <class F>
    void each(F&& f) const {
        std::lock_guard guard(lock_);
        for (const Older& older : older_) f(*older.ring);
        f(*current_);
    }
    std::pair<uint64_t, std::string> last_change() const {
        std::lock_guard guard(lock_);
        return {grown_, why_};
    }
    Seen seen() const {
        std::lock_guard guard(lock_);
        Seen s{older_.size() + 1, 0, 0, grown_, shrunk_, refused_.empty() ? why_ : refused_};
        const auto add = [&](const RingBuffer& ring) {
            s.reserved += ring.slab.reserved();
            s.resident += ring.slab.resident();
        };
        for (const Older& older : older_)
            if (!older.retired) add(*older.ring);
        add(*current_);
        if (prepared_) add(*prepared_);
        s.reserved += extents_.bytes();
        s.resident += extents_.bytes();
        return s;
    }

private:
    struct Older {
        std::unique_ptr<RingBuffer> ring;
        uint64_t checked = 0;  // positions below are let go
        bool retired = false;
    };
    using Size = GrowthPolicy::Size;
    static constexpr uint64_t kShortestLook = 1'000'000, kLongestLook = 20'000'000;  // ns between two looks of the thread
    static constexpr uint64_t kTryAgain = 10'000'000;                                // ns after it was refused

    const Gates& gates_;
    const SlabSpec first_;
    const Growth growth_;
    const std::function<uint64_t(uint64_t)> stride_of_;
    const std::function<void()> wake_;
    DynamicSlabAllocator allocator_;
    GrowthPolicy policy_;  // in the turn
    Extents extents_{allocator_};

    mutable std::mutex lock_;  // all below, and which ring is the current one; whoever changes that has the turn, too
    std::condition_variable bell_;
    std::unique_ptr<RingBuffer> current_, prepared_;
    std::list<Older> older_;
    Size wish_;
    bool stopping_ = false, nudged_ = false;
    uint64_t loaded_at_ = 0;  // when the ring was half full for the last time
    uint64_t refused_at_ = 0, grown_ = 0, shrunk_ = 0;
    std::string refused_, why_;
    std::thread thread_;
    std::atomic<bool> gave_back_{false};  // memory, since the thread last looked

    [[gnu::noinline, gnu::cold]] bool settle_beside(Loan& loan, uint64_t bytes) {
        try {
            extents_.take(loan, bytes);
        } catch (const Error& e) {
            refuse(e.what());
            return false;
        }
        nudge();
        return true;
    }
    std::unique_ptr<RingBuffer> make(SlabSpec spec) { return std::make_unique<RingBuffer>(allocator_.allocate(spec), gates_); }
    /// A ring that nobody has found goes again.
    void forget(std::unique_ptr<RingBuffer> ring) noexcept {
        if (!ring) return;
        const SlabPlace place = ring->slab.place;
        ring.reset();  // a memory without files gives its pages back when nobody maps it
        allocator_.forget(place);
    }
    SlabSpec spec_of(const Size& size) const {
        SlabSpec spec = first_;
        spec.capacity = size.slots;
        spec.room = size.room;
        spec.stride = stride_of_(size.room);
        return spec;
    }
    /// Under the lock.
    void wish(const Size& size) {
        if (wish_ && wish_.slots >= size.slots && wish_.room >= size.room) return;
        if (!refused_.empty() && loaded_at_ - refused_at_ < kTryAgain) return;
        wish_ = size;
        bell_.notify_all();
    }
    /// There is something to do for the thread.
    void nudge() {
        {
            std::lock_guard guard(lock_);
            nudged_ = true;
        }
        bell_.notify_all();
    }
    /// What was refused may be tried again; true if something was.
    bool allow() {
        std::lock_guard guard(lock_);
        refused_at_ = 0;
        return !refused_.empty();
    }
    void refuse(const std::string& why) {
        std::lock_guard guard(lock_);
        refused_ = why;
        refused_at_ = sys::now_ns();
    }

    bool go_on_at_once(const Size& size, Change why) {
        try {
            return go_on(make(spec_of(size)), why);
        } catch (const Error& e) {
            refuse(e.what());
            return false;
        }
    }
    /// The lane goes on in another ring. In a turn. Numbers rise along the chain: a ring that was made before the newest one
    /// is of no use any more.
    bool go_on(std::unique_ptr<RingBuffer> ring, Change why) {
        if (ring->slab.place.number < current_->slab.place.number) return forget(std::move(ring)), false;
        try {
            each_bit(gates_.added.load(relaxed), [&](uint32_t s) { ring->slab.back_row(gates_.file->storage(), s); });
        } catch (const Error& e) {
            forget(std::move(ring));
            refuse(e.what());
            return false;
        }
        const uint64_t position = current_->next.position;
        ring->begin_at(position);
        allocator_.link(ring->slab, position);
        current_->slab.header->close.store(position + 1, seq_cst);  // CLOSE
        std::lock_guard guard(lock_);
        forget(std::move(prepared_));
        if (why == Change::idle) ++shrunk_;
        else ++grown_;
        why_ = text(why, current_->slab, ring->slab);
        refused_.clear();
        wish_ = {};
        older_.push_back({std::move(current_)});
        current_ = std::move(ring);
        nudged_ = true;
        bell_.notify_all();
        return true;
    }
    static std::string text(Change why, const Slab& from, const Slab& to) {
        static constexpr const char* kWhy[] = {"", "the ring was full", "a message was longer than a slot", "messages were longer than slots",
                                               "a batch was longer than the ring", "the load was low"};
        const auto size = [](const Slab& s) { return std::to_string(s.capacity) + " x " + std::to_string(s.room) + " bytes"; };
        return size(from) + " to " + size(to) + ": " + kWhy[static_cast<uint64_t>(why)];
    }

    // ---- the thread ----------------------------------------------------------------------------------------------

    void run() {
        std::unique_lock guard(lock_);
        const auto called = [&] { return stopping_ || nudged_ || wish_; };
        while (!stopping_) {
            nudged_ = false;
            guard.unlock();
            bool wakes = prepare();
            const bool older = retire(), extents = give_back_extents(), larger = shrink();
            if (gave_back_.exchange(false, relaxed)) wakes |= allow();  // within the budget again, perhaps
            if (wakes) wake_();
            const auto pause = std::chrono::nanoseconds(std::clamp(growth_.shrink_after / 8, kShortestLook, kLongestLook));
            guard.lock();
            if (older || extents || larger)
                bell_.wait_for(guard, pause, [&] { return stopping_ || wish_; });
            else
                bell_.wait(guard, called);
        }
    }

    /// Under the lock: is a ring prepared that may follow the current one? One that was in the making while the lane went on may not.
    bool larger_is_there() const noexcept {
        return prepared_ && prepared_->slab.place.number > current_->slab.place.number &&
               prepared_->slab.capacity > current_->slab.capacity && prepared_->slab.room >= current_->slab.room;
    }
    /// Makes the ring that the sender wishes. True: it looks again.
    bool prepare() {
        Size size;
        {
            std::lock_guard guard(lock_);
            size = std::exchange(wish_, {});
            if (!size) return false;
            if (larger_is_there() && prepared_->slab.capacity >= size.slots && prepared_->slab.room >= size.room) return true;
            forget(std::move(prepared_));
        }
        try {
            std::unique_ptr<RingBuffer> ring = make(spec_of(size));
            std::lock_guard guard(lock_);
            refused_.clear();
            prepared_ = std::move(ring);
            return true;
        } catch (const Error& e) {
            refuse(e.what());
            return false;
        }
    }

    /// Gives back older rings; true while there are some.
    bool retire() {
        std::vector<Older*> older;
        std::vector<const Slab*> slabs;
        {
            std::lock_guard guard(lock_);
            for (Older& o : older_) {
                older.push_back(&o);
                slabs.push_back(&o.ring->slab);
            }
            slabs.push_back(&current_->slab);
        }
        if (older.empty()) return false;
        settle_skips(slabs, false);
        bool gone = false;
        for (size_t i = 0; i < older.size(); ++i) {
            Older& o = *older[i];
            if (!o.retired && slabs[i + 1]->header->skips_before.load(seq_cst) != 0 && let_go(o) && allocator_.retire(*slabs[i])) {
                extents_.forget(*o.ring);
                std::lock_guard guard(lock_);
                o.retired = true;
                gave_back_.store(true, relaxed);
            }
            gone = gone || o.retired;
        }
        if (!gone || !turns.take()) return true;
        std::list<Older> retired;  // they are unmapped after the turn
        {
            std::lock_guard guard(lock_);
            for (auto it = older_.begin(); it != older_.end();) {
                const auto here = it++;
                if (here->retired) retired.splice(retired.end(), older_, here);
            }
        }
        turns.give();
        while (!retired.empty()) {
            const SlabPlace place = retired.front().ring->slab.place;
            retired.pop_front();
            gates_.file->storage().remove(place);  // a memory without files gives its words back now
        }
        return true;
    }
    /// All of a closed ring is let go by all, own views too.
    static bool let_go(Older& older) noexcept {
        const RingBuffer& ring = *older.ring;
        if (ring.held() != 0) return false;
        bool all = true;
        ring.each_lent([&](const Cursor& c) {
            if (!all || c.position < older.checked) return;
            all = ring.published(c) && ring.let_go_by_all(c.slot, c.lap, Next::writes);
            if (all) older.checked = c.position + 1;
        });
        return all;
    }

    /// Gives back extents; true while some have pages.
    bool give_back_extents() {
        if (extents_.bytes() == 0) return false;
        {
            std::lock_guard guard(lock_);
            for (Older& older : older_) give_back_extents(*older.ring);  // the sender lends none there
        }
        if (!turns.take()) return true;
        give_back_extents(*current_);
        turns.give();
        return extents_.bytes() != 0;
    }
    /// Of the newest ring in a turn, of older ones from the thread.
    void give_back_extents(RingBuffer& ring) noexcept {
        if (extents_.bytes() != 0 && extents_.give_back(ring) != 0) gave_back_.store(true, relaxed);
    }

    /// After low load the lane goes on in a smaller ring; true while it is larger than it was at first.
    bool shrink() {
        if (!turns.take()) return true;
        const Size is{current_->slab.capacity, current_->slab.room};
        const uint64_t now = sys::now_ns(), used = about_used();
        uint64_t loaded_at;
        bool prepared, unused;  // a larger ring; it is not needed
        {
            std::lock_guard guard(lock_);
            loaded_at = loaded_at_;
            prepared = prepared_ != nullptr;
            unused = prepared && current_->let_go_half();  // else whoever waits for it finds none, again and again
        }
        const bool larger = policy_.larger(is);
        const Size to = larger && older_taken() ? policy_.shrink(now, loaded_at, used, is) : Size{};
        turns.give();
        if (unused && now - loaded_at > growth_.shrink_after) {
            std::lock_guard guard(lock_);
            forget(std::move(prepared_));
            prepared = false;
        }
        if (!to) return larger || prepared;
        try {
            std::unique_ptr<RingBuffer> ring = make(spec_of(to));
            if (turns.take()) {
                const bool same = current_->slab.capacity == is.slots && current_->slab.room == is.room;
                if (same) go_on(std::move(ring), Change::idle);
                turns.give();
            }
            forget(std::move(ring));
        } catch (const Error& e) {
            refuse(e.what());
        }
        return true;
    }
    /// Every stage has come to the end of the older rings. Else it is no low load, and a ring that becomes smaller again and
    /// again, however slowly it is filled, would use up the places of the lane. In a turn.
    bool older_taken() const noexcept {
        std::lock_guard guard(lock_);
        for (auto older = older_.rbegin(); older != older_.rend(); ++older) {
            const RingBuffer& ring = *older->ring;
            if (older->retired) return true;
            if (ring.next.position == ring.slab.first) continue;
            return ring.last_taken_by_all();
        }
        return true;
    }
    /// How far back the oldest message lies that is not let go, to the next power of two.
    uint64_t about_used() const noexcept {
        const RingBuffer& ring = *current_;
        uint64_t used = 0;
        for (uint64_t back = 1; back <= std::min(ring.next.position - ring.slab.first, ring.slab.capacity); back *= 2) {
            const Cursor c = Cursor::at(ring.next.position - back, ring.slab.first, ring.slab.capacity);
            if (ring.held(c.slot) || !ring.let_go_by_all(c.slot, c.lap, Next::writes)) used = back;
        }
        return used;
    }
};

}  // namespace psyne
