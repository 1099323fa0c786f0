// A link on its socket. Whoever drives it moves all that can be moved without waiting; then it says what it waits for.
//
//   caller's thread ──┐                      ┌── socket: readable, writable
//   pump's thread   ──┴─ lock ─▶ drive() ────┼── bell: somebody sent, or made room, in the local channel
//                                            └── due(): acknowledgements that nobody else causes
#pragma once

#include <poll.h>

#include <psyne/net/side.hpp>

namespace psyne::net {

using Sleepers = std::atomic<uint32_t>;

class Connection {
public:
    std::mutex lock;  // whoever is inside: `drive` and all below it

    /// `sleepers`: counts connections that sleep until whoever sends to the channel kicks them. Null: a bell wakes it.
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
        over_ = nullptr;
        finished_ = false;
        socket_ = std::move(socket);
        events_ = POLLIN | POLLOUT;
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
        } catch (const Error& e) {
            failed_with(e);
        }
    }
    void disconnect() noexcept {
        lie_up();
        socket_.reset();
        link().disconnected();
    }

    /// Moves what can be moved. A failure closes the socket. `linger`: ns for which it stays awake for more.
    void drive(uint64_t linger = 0) noexcept {
        if (!socket_) return;
        try {
            lie_up();
            const uint64_t now = sys::now_ns();
            if (now >= due_ || side_->starves()) side_->acknowledge();
            if (now >= look_at_) side_->look_after_others();
            const uint64_t before = link().bytes_in;
            do events_ = transfer(link(), socket_.get());
            while (side_->waits() && (comes_within(linger) || !lie_down()));
            if (link().bytes_in != before) heard_ = now;
            plan(now);
            look_for_news();
        } catch (const Error& e) {
            failed_with(e);
        }
    }
    /// Adds what it waits for to `polled`. `owner`: the thread that has it to itself for now. The time when it must be
    /// driven at the latest (monotonic ns).
    uint64_t wait_for(std::vector<pollfd>& polled, bool owner) const {
        if (!socket_) return kForever;
        if (!owner) {  // who owns it tells nobody when it leaves
            const uint64_t until = owned_until_.load(relaxed), now = sys::now_ns();
            if (until > now) return std::min(until, now + kLook);
        }
        polled.push_back({socket_.get(), events_, 0});
        if (bell_ >= 0) polled.push_back({bell_, POLLIN, 0});
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
    bool connected() const noexcept { return static_cast<bool>(socket_); }
    /// It has failed, or its link is over, since this was asked last.
    bool has_news() const noexcept { return news_; }
    bool take_news() noexcept { return std::exchange(news_, false); }
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
        if (side_->waits()) lie_down();
        plan(now);
        if (bell_ < 0 && side_->waits()) due_ = now;  // something has come
        return bell_;
    }
    bool failed() const noexcept { return !failure_.empty(); }
    const std::string& failure() const noexcept { return failure_; }
    Errc failure_code() const noexcept { return code_; }

    // ---- any thread, without the lock ---------------------------------------------------------------------------

    /// A thread that waits for messages has it to itself, until so long after it has left.
    void own() noexcept { owned_until_.store(kForever, relaxed); }
    void disown() noexcept { owned_until_.store(sys::now_ns() + kLease, relaxed); }
    /// Whoever drives it else would take what the owner waits for.
    bool owned() const noexcept { return owned_until_.load(relaxed) > sys::now_ns(); }
    /// Nobody has it to himself any more; true if somebody had.
    bool leave() noexcept { return owned_until_.exchange(0, relaxed) > sys::now_ns(); }
    /// Something was sent while it slept. Sends it in this thread; true: whoever drives it else goes on, and must be woken.
    bool kick() noexcept {
        const std::lock_guard guard(lock);
        if (!asleep_) return false;
        const uint64_t now = sys::now_ns();
        if (now - std::exchange(kicked_at_, now) < kBusy) return lie_up(), due_ = now, true;
        drive();
        return news_ || (events_ & POLLOUT) != 0;
    }

private:
    static constexpr uint64_t kBusy = 10'000;  // ns between two kicks from which the pump sends instead of the caller
    static constexpr uint64_t kLease = 20'000'000, kLook = 50'000'000;  // ns
    static constexpr uint64_t kSoonest = 1'000'000, kLatest = 16'000'000;  // ns until one acknowledges unasked

    std::unique_ptr<Side> side_;
    const std::shared_ptr<Sleepers> sleepers_;
    sys::Fd socket_;
    short events_ = 0;
    int bell_ = -1;
    uint64_t due_ = kForever, look_at_ = kForever, pause_ = kSoonest, kicked_at_ = 0, heard_ = 0;
    std::string failure_;
    Errc code_ = Errc::system;
    bool news_ = false, finished_ = false;
    const char* over_ = nullptr;  // why
    std::atomic<uint64_t> owned_until_{0};
    bool asleep_ = false;  // nobody looks for messages until it is kicked

    bool comes_within(uint64_t ns) {
        if (ns == 0) return false;
        const uint64_t start = sys::now_ns();
        do {
            for (int i = 0; i < 16; ++i) {
                if (side_->ready()) return true;
                cpu_pause();
            }
        } while (sys::now_ns() - start < ns);
        return false;
    }
    /// Nothing is there for the link: the channel wakes it. False: something has come.
    bool lie_down() {
        if (sleepers_) {
            asleep_ = true;
            sleepers_->fetch_add(1, seq_cst);  // KICK
            full_fence();
            if (!side_->ready()) return true;
            return lie_up(), false;
        }
        bell_ = side_->arm();
        if (!side_->ready()) return true;
        lie_up();
        return false;
    }
    void lie_up() noexcept {
        if (std::exchange(asleep_, false)) sleepers_->fetch_sub(1, relaxed);
        if (bell_ >= 0) side_->disarm();
        bell_ = -1;
    }
    void look_for_news() noexcept {
        if (!over_ && link().unwritten() == 0 && (over_ = side_->over()) != nullptr) news_ = true;
        if (over_ && !finished_ && side_->finished()) finished_ = news_ = true;
        if (!link().refused().empty()) news_ = true;
    }
    void plan(uint64_t now) noexcept {
        pause_ = side_->owes() ? std::min(now >= due_ ? 2 * pause_ : kSoonest, kLatest) : kSoonest;
        due_ = !side_->owes() ? kForever : now + pause_;
        look_at_ = bell_ >= 0 ? now + kSlice : kForever;
    }
    void failed_with(const Error& e) noexcept {
        failure_ = e.what();
        code_ = e.code;
        look_for_news();  // what it said before it went counts
        news_ = true;
        disconnect();
    }
};

}  // namespace psyne::net
