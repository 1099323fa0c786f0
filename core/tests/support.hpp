// What the tests share: a directory of their own, short ways to open, send and take, and child processes.
#pragma once

#include "check.hpp"
#include "one_mapping.hpp"

#include <sys/prctl.h>
#include <sys/wait.h>

namespace psyne::test {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline constexpr auto kShared = Pattern::mpmc;
inline constexpr auto keep_going = [] { return true; };  // a tick without signals

/// A directory for channels that is gone with all its files at the end.
struct Home {
    std::string path;
    std::shared_ptr<const Directory> directory;

    Home() {
        char text[] = "/dev/shm/psyne-test-XXXXXX";
        if (!::mkdtemp(text)) check::fail("cannot make a directory in /dev/shm");
        path = text;
        directory = std::make_shared<const Directory>(path);
    }
    ~Home() { std::filesystem::remove_all(path); }
    std::vector<std::string> files() const {
        std::vector<std::string> names;
        for (const auto& e : std::filesystem::directory_iterator(path)) names.push_back(e.path().filename().string());
        return names;
    }
};

inline ChannelSpec spec(Pattern pattern = Pattern::mpsc, std::vector<StageSpec> stages = {{"main"}},
                        uint64_t payload_bytes = 64) {
    return {"bytes " + std::to_string(payload_bytes), payload_bytes, pattern, std::move(stages)};
}

struct Options {
    uint64_t capacity = 8;
    bool count_dropped = false, variants = false, stamps = false, remote = false;
    Spinner::Mode wait = Spinner::Mode::block;
    std::string name = "test";
};

inline std::unique_ptr<Sender> sender(const Home& home, const ChannelSpec& s = spec(), const Options& o = {}) {
    return open_sender(home.directory, o.name, s,
                       {payload_stride(s.payload_bytes, 8, 0), o.capacity, {o.count_dropped, o.variants, o.stamps, o.remote}, o.wait}, "test");
}
inline std::unique_ptr<Receiver> receiver(const Home& home, const std::string& stage = "", const Options& o = {}) {
    return open_receiver(home.directory, o.name, stage, o.wait, "test");
}

inline void write_value(const Loan& loan, const Sender& s, uint64_t i, uint64_t value) {
    std::memcpy(loan.data + i * s.stride(), &value, 8);
}
inline uint64_t value_of(const Taken& t, uint64_t i = 0) {
    uint64_t v;
    std::memcpy(&v, t.data + i * t.lane->slab.stride, 8);
    return v;
}
inline Loan lend(Sender& s, uint64_t n = 1) {
    Loan loan;
    if (!s.try_loan(n, loan)) check::fail("no room for " + std::to_string(n) + " messages");
    return loan;
}
inline void put(Sender& s, uint64_t value) {
    const Loan loan = lend(s);
    write_value(loan, s, 0, value);
    s.commit(loan, 1);
}
/// Takes up to `limit` messages that must be there.
inline Taken take(Receiver& r, uint64_t limit = 1) {
    Taken t;
    if (!r.try_take(limit, t)) check::fail("no message is there");
    return t;
}
inline bool nothing(Receiver& r) {
    Taken t;
    return !r.try_take(1, t);
}
inline uint64_t take_value(Receiver& r) {
    const Taken t = take(r);
    const uint64_t v = value_of(t);
    r.end(t, false);
    return v;
}
/// Takes and ends up to `limit` messages that must be there: how many.
inline uint64_t take_batch(Receiver& r, uint64_t limit) {
    const Taken t = take(r, limit);
    r.end(t, false);
    return t.count;
}
inline Wait wait_for_one(Receiver& r, Taken& t, uint64_t ms) {
    return r.receive(1, t, sys::now_ns() + ms * 1'000'000u, keep_going);
}

inline uint64_t goodbye(std::unique_ptr<Sender>& s, bool failed = false) {
    s->close(failed);
    const uint64_t unread = leave(s->registry);
    s.reset();
    return unread;
}
inline uint64_t goodbye(std::unique_ptr<Receiver>& r) {
    r->close();
    const uint64_t unread = leave(r->registry);
    r.reset();
    return unread;
}

/// What stands in a slab's words now.
inline uint64_t ack_word(const Sender& s, uint64_t slot, uint32_t stage = 0) { return s.slab().row(stage)[slot].load(seq_cst); }

/// A process that runs `body` and then waits until it is killed. It says `here()` to let the parent go on.
class Child {
public:
    template <class Body>
    explicit Child(Body&& body) {
        int both[2];
        if (::pipe2(both, O_CLOEXEC) != 0) check::fail("no pipe");
        pid_ = ::fork();
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            check::watchdog(120);
            talk_ = both[1];
            try {
                body(*this);
                here();
                for (;;) ::pause();
            } catch (const check::Failure&) {
            } catch (const std::exception& e) {
                std::fprintf(stderr, "unexpected exception in a child: %s\n", e.what());
            }
            ::_exit(70);
        }
        ::close(both[1]);
        listen_ = both[0];
    }
    Child(Child&& other) noexcept
        : pid_(std::exchange(other.pid_, 0)), talk_(other.talk_), listen_(std::exchange(other.listen_, -1)) {}
    Child& operator=(Child&& other) noexcept {
        std::swap(pid_, other.pid_), std::swap(talk_, other.talk_), std::swap(listen_, other.listen_);
        return *this;
    }
    ~Child() {
        kill();
        if (listen_ >= 0) ::close(listen_);
    }

    void here() { (void)!::write(talk_, "x", 1); }  // in the child
    void wait_here() const {                         // in the parent
        char c;
        if (::read(listen_, &c, 1) != 1) check::fail("the child ended before it said that it is here");
    }
    void signal(int number) const { ::kill(pid_, number); }
    void kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        join();
    }
    int join() {
        int status = 0;
        ::waitpid(std::exchange(pid_, 0), &status, 0);
        return status;
    }
    /// Its status when it has ended by itself.
    std::optional<int> ended() {
        int status = 0;
        if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
        pid_ = 0;
        return status;
    }
    pid_t pid() const { return pid_; }

private:
    pid_t pid_ = 0;
    int talk_ = -1, listen_ = -1;
};

}  // namespace psyne::test
