// A link on its socket. Whoever drives it moves all that can be moved without waiting; then it says what it waits for.
//
//   caller's thread ──┐                      ┌── socket: readable, writable
//   pump's thread   ──┴─ lock ─▶ drive() ────┼── bell: somebody sent, or made room, in the local channel
//                                            └── due(): acknowledgements that nobody else causes
#pragma once

#include <poll.h>
#include <sched.h>

#include <psyne/net/side.hpp>

namespace psyne::net {

/// Counts the connections of one channel that sleep until whoever sends to it kicks them.
using Sleepers = std::atomic<uint32_t>;

class Connection {
public:
    std::mutex lock;  // whoever is inside: `drive` and all below it
    std::shared_ptr<Sleepers> channel;  // those of its channel; set before others know of it

    /// `sleepers`: whoever sends to the channel kicks it. Null: a bell wakes it.
    Connection(std::unique_ptr<Side> side, std::shared_ptr<Sleepers> sleepers)
        : side_(std::move(side)), sleepers_(std::move(sleepers)) {}
    ~Connection() { lie_up(); }

    Side& side() noexcept { return *side_; }
    Link& link() noexcept { return side_->link(); }

    /// A socket whose handshake is over; messages from `next` on are the first that go over it.
    /// `rest`: what has come over it already. Without a socket the caller moves the bytes.
    void connect(sys::Fd socket, uint64_t next, uint64_t capacity, std::string_view rest = {}) {
        side_->connected(next, capacity);
        failure_.clear();
        violator_.reset();
        over_ = nullptr;
        finished_ = false;
        socket_ = std::move(socket);
        events_ = POLLIN | POLLOUT;
        due_ = look_at_ = kForever;
        heard_ = sys::now_ns();
        try {
            while (!rest.empty()) {
                const std::span<std::byte> to = link().buffer();
                const size_t n = std::min(to.size(), rest.size());
                if (n == 0) fail(Errc::protocol, "the peer sent messages before it was welcome");
                std::memcpy(to.data(), rest.data(), n);
                link().arrived(n);
                rest.remove_prefix(n);
            }
        } catch (const std::exception& e) {
            failed_with(e);
        }
    }
    void disconnect() noexcept {
        lie_up();
        if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);  // a thread that polls it keeps it open
        socket_.reset();
        link().disconnected();
    }
    /// In a forked child, whatever the threads of the parent were about: its peer must see when the parent goes.
    void close_in_child() noexcept {
        socket_.reset();
        bell_ = -1;  // what is armed is the parent's
    }

    /// Moves what can be moved, for a while. A failure closes the socket. `linger`: ns for which it stays awake for more.
    /// `reads`: something may have come. True: it wrote to the channel.
    bool drive(uint64_t linger = 0, bool reads = true) noexcept {
        if (!socket_) return false;
        const uint64_t before = link().bytes_in;
        try {
            lie_up();
            const uint64_t now = sys::now_ns();
            if (now >= due_ || side_->starves()) side_->acknowledge();
            if (now >= look_at_) side_->look_after_others();
            bool goes_on = true;
            for (uint64_t then = now; goes_on && then - now < kTurn; then = sys::now_ns()) {
                events_ = transfer(link(), socket_.get(), reads);
                goes_on = side_->waits() && (comes_within(linger) || !lie_down());
            }
            if (link().bytes_in != before) heard_ = now;
            plan(now);
            if (goes_on) due_ = now;  // others have their turn
            look_for_news();
        } catch (const std::exception& e) {
            failed_with(e);
        }
        return side_->incoming() && link().bytes_in != before;
    }
    /// Adds what it waits for to `polled`. The time when it must be driven at the latest (monotonic ns).
    uint64_t wait_for(std::vector<pollfd>& polled) {
        if (!socket_) return kForever;
        if (events_ != 0) polled.push_back({socket_.get(), events_, 0});  // else a broken one would be readable for ever
        if (bell_ >= 0) polled.push_back({bell_, POLLIN, 0});
        if ((events_ & POLLOUT) == 0 && side_->starves()) due_ = 0;
        return due();
    }
    /// The same, for a loop that watches `bell` (-1: none) and the socket.
    struct Needs {
        short events;
        int bell;
        uint64_t due;
    };
    Needs needs() const noexcept { return {socket_ ? events_ : short{}, bell_, socket_ ? due() : kForever}; }
    uint64_t due() const noexcept { return std::min(due_, look_at_); }
    bool kicked() const noexcept { return sleepers_ != nullptr; }
    uint64_t heard() const noexcept { return heard_; }
    /// Why its link is over, once the peer was told what it must know; null: it is not.
    const char* over() noexcept {
        look_for_news();
        return over_;
    }
    bool finished() const noexcept { return finished_ || side_->finished(); }
    /// For who moves the bytes himself.
    void arrived(size_t n) {
        link().arrived(n);
        heard_ = sys::now_ns();
    }
    /// The same, when there is nothing to move: a descriptor that wakes it, or -1.
    int settle() {
        const uint64_t now = sys::now_ns();
        lie_up();
        if (now >= due_ || side_->starves()) side_->acknowledge();
        if (now >= look_at_) side_->look_after_others();
        const bool came = side_->waits() && !lie_down();
        plan(now);
        if (came) due_ = now;
        return bell_;
    }
    /// The socket of a peer that broke the protocol, where it stands between two frames and so can be told why.
    sys::Fd take_violator() noexcept { return std::move(violator_); }
    bool failed() const noexcept { return !failure_.empty(); }
    const std::string& failure() const noexcept { return failure_; }
    Errc failure_code() const noexcept { return code_; }

    // ---- any thread, without the lock ---------------------------------------------------------------------------

    /// It has failed, or its link is over, since this was asked last.
    bool has_news() const noexcept { return news_.load(relaxed); }
    bool take_news() noexcept { return has_news() && news_.exchange(false, acq_rel); }

    // A thread that waits for messages has it to itself, until so long after it has left. The pump says by when it looks
    // at it again, so that who leaves need not wake it each time.

    void own() noexcept { owned_until_.store(kForever, relaxed); }
    /// True: the pump must be woken.
    bool disown(uint64_t lease = kLease) noexcept {
        const uint64_t until = lease == 0 ? 0 : sys::now_ns() + lease;
        owned_until_.store(until, seq_cst);                      // LEASE
        return pump_looks_at_.load(seq_cst) > until && pump_looks_at_.exchange(0, seq_cst) > until;  // LEASE
    }
    /// For the pump, before it looks: until when somebody has it to himself; 0: nobody has.
    uint64_t owned_until() noexcept {
        pump_looks_at_.store(kForever, seq_cst);                // LEASE
        const uint64_t until = owned_until_.load(seq_cst);  // LEASE
        return until > sys::now_ns() ? until : 0;
    }
    void pump_looks_at(uint64_t when) noexcept { pump_looks_at_.store(when, seq_cst); }
    /// With the lock: it must be driven before the pump looks at it.
    bool pump_is_late() const noexcept { return due() < pump_looks_at_.load(seq_cst) || (events_ & POLLOUT) != 0; }
    bool owned() const noexcept { return owned_until_.load(relaxed) > sys::now_ns(); }
    /// Nobody has it to himself any more; true if somebody had.
    bool leave() noexcept {
        const bool had = owned();
        return disown(0) || had;
    }

    /// Something was sent: if it sleeps this thread sends it. True: the pump must be woken, which goes on.
    bool kick() noexcept {
        if (!asleep_.load(relaxed)) return false;  // KICK
        const std::lock_guard guard(lock);
        if (!asleep_.load(relaxed)) return false;
        if (sys::now_ns() - kicked_at_ < kBusy) {
            lie_up();
            due_ = 0;
        } else {
            drive(0, false);
            kicked_at_ = sys::now_ns();
        }
        return has_news() || (socket_ && (due_ <= kicked_at_ || (events_ & POLLOUT) != 0));
    }

private:
    static constexpr uint64_t kBusy = 3'000;  // ns after a kick in which another one lets the pump send
    static constexpr uint64_t kTurn = 500'000;  // ns, after which others have their turn
    static constexpr uint64_t kLease = 5'000'000;  // ns
    static constexpr uint64_t kSoonest = 1'000'000, kLatest = 16'000'000;  // ns until one acknowledges unasked

    std::unique_ptr<Side> side_;
    const std::shared_ptr<Sleepers> sleepers_;
    sys::Fd socket_, violator_;
    short events_ = 0;
    int bell_ = -1;
    uint64_t due_ = kForever, look_at_ = kForever, pause_ = kSoonest, kicked_at_ = 0, heard_ = 0;
    uint64_t seen_ = 0;  // bytes that had come in when it was planned
    std::string failure_;
    Errc code_ = Errc::system;
    bool finished_ = false;
    const char* over_ = nullptr;  // why
    std::atomic<bool> news_{false};
    std::atomic<uint64_t> owned_until_{0};
    std::atomic<uint64_t> pump_looks_at_{0};
    std::atomic<bool> asleep_{false};  // nobody looks for messages until it is kicked; written with the lock

    bool comes_within(uint64_t ns) {
        if (ns == 0) return false;
        const uint64_t start = sys::now_ns();
        do {
            for (int i = 0; i < 16; ++i) {
                if (side_->ready()) return true;
                cpu_pause();
            }
            ::sched_yield();  // who sends may need this core
        } while (sys::now_ns() - start < ns);
        return false;
    }
    /// Nothing is there for the link: the channel wakes it. False: something has come. A kick moves bytes, so who moves
    /// them himself has a bell.
    bool lie_down() {
        if (sleepers_ && socket_) {
            asleep_.store(true, relaxed);
            sleepers_->fetch_add(1, seq_cst);  // KICK
            full_fence();
        } else {
            bell_ = side_->arm();
        }
        if (!side_->ready()) return true;
        lie_up();
        return false;
    }
    void lie_up() noexcept {
        if (asleep_.load(relaxed)) {
            asleep_.store(false, relaxed);
            sleepers_->fetch_sub(1, relaxed);
        }
        if (bell_ >= 0) side_->disarm();
        bell_ = -1;
    }
    void look_for_news() noexcept {
        bool news = !link().refused().empty();
        if (!over_ && link().unwritten() == 0 && (over_ = side_->over()) != nullptr) news = true;
        if (over_ && !finished_ && side_->finished()) finished_ = news = true;
        if (news) news_.store(true, release);
    }
    /// While more comes the acknowledgement waits, for it may tell of that, too; links do not let it wait for ever.
    void plan(uint64_t now) noexcept {
        const bool was_due = now >= due_, moved = std::exchange(seen_, link().bytes_in) != link().bytes_in;
        look_at_ = bell_ >= 0 ? now + kSlice : kForever;
        if (!side_->owes()) {
            due_ = kForever;
        } else if (moved || was_due || due_ == kForever) {
            pause_ = was_due && !moved ? std::min(2 * pause_, kLatest) : kSoonest;
            due_ = now + pause_;
        }
    }
    void failed_with(const std::exception& e) noexcept {
        const auto* ours = dynamic_cast<const Error*>(&e);
        failure_ = e.what();
        code_ = ours ? ours->code : Errc::system;  // else there is no memory
        look_for_news();  // what it said before it went counts
        news_.store(true, release);
        if (code_ == Errc::protocol && link().unwritten() == 0) violator_ = std::move(socket_);
        disconnect();
    }
};

}  // namespace psyne::net
