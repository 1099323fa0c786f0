// One thread of a process that drives its connections while nobody else does.
#pragma once

#include <csignal>
#include <thread>

#include <psyne/net/connection.hpp>

namespace psyne::net {

class Pump {
public:
    /// `failed`: is called, by the pump's thread, when a connection has failed or its link is over.
    explicit Pump(std::function<void()> tell) : tell_(std::move(tell)) {
        std::tie(woken_, waker_) = sys::make_pipe();
        sigset_t all, before;
        sigfillset(&all);  // signals are for the threads of the program
        pthread_sigmask(SIG_SETMASK, &all, &before);
        thread_ = std::thread([this] { run(); });
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    Pump(const Pump&) = delete;
    Pump& operator=(const Pump&) = delete;
    ~Pump() {
        stopping_.store(true);
        wake();
        thread_.join();
    }
    /// Around a fork: the child has none of these connections, and no thread; it leaves the pump as it is.
    void before_fork() { lock_.lock(); }
    void after_fork_in_parent() { lock_.unlock(); }
    void after_fork_in_child() { lock_.unlock(); }

    void add(std::shared_ptr<Connection> c) {
        {
            std::lock_guard guard(lock_);
            connections_.push_back(std::move(c));
            changed_.fetch_add(1, relaxed);
        }
        wake();
    }
    void remove(const Connection& c) {
        {
            std::lock_guard guard(lock_);
            std::erase_if(connections_, [&](const auto& other) { return other.get() == &c; });
            changed_.fetch_add(1, relaxed);
        }
        wake();
    }
    /// A connection waits for something else than before. Any thread.
    void wake() noexcept { sys::write_byte(waker_); }

private:
    static constexpr uint64_t kLinger = 30'000;  // ns that it stays awake for a connection that sends without a break

    const std::function<void()> tell_;
    sys::Fd woken_, waker_;
    std::atomic<bool> stopping_{false};
    std::mutex lock_;
    std::vector<std::shared_ptr<Connection>> connections_;
    std::atomic<uint64_t> changed_{0};  // how often
    std::thread thread_;

    struct Watched {
        std::shared_ptr<Connection> connection;
        size_t first = 0, count = 0;  // in what is polled
        bool looks = false;           // nobody else has it
    };
    // Of the thread.
    std::vector<Watched> all_;
    std::vector<pollfd> polled_;
    uint64_t seen_ = ~0ull;
    bool lingers_ = false;  // there was one connection only that had work

    void look_for_connections() {
        if (changed_.load(relaxed) == seen_) return;  // whoever changes it wakes us afterwards
        std::lock_guard guard(lock_);
        all_.clear();
        for (const auto& c : connections_) all_.push_back({c});
        seen_ = changed_.load(relaxed);
    }

    void run() {
        while (!stopping_.load()) {
            look_for_connections();
            wait(watch());
            drive();
        }
    }
    /// Fills in what is polled. Until when.
    uint64_t watch() {
        polled_.assign(1, {woken_.get(), POLLIN, 0});
        uint64_t due = kForever;
        for (Watched& w : all_) {
            uint64_t until = w.connection->owned_until();
            w.looks = until == 0;
            w.first = polled_.size();
            if (w.looks) {
                std::lock_guard guard(w.connection->lock);
                until = w.connection->wait_for(polled_);
            }
            w.connection->pump_looks_at(until);
            due = std::min(due, until);
            w.count = polled_.size() - w.first;
        }
        return due;
    }
    void wait(uint64_t due) {
        const uint64_t now = sys::now_ns();
        const int ms = due == kForever ? -1 : due <= now ? 0 : static_cast<int>(std::min<uint64_t>((due - now) / 1'000'000 + 1, 60'000));
        if (::poll(polled_.data(), static_cast<nfds_t>(polled_.size()), ms) < 0 && errno != EINTR) ::usleep(1000);  // no memory
        if (polled_[0].revents != 0) sys::drain_fifo(woken_);
    }
    void drive() {
        const uint64_t now = sys::now_ns();
        const uint64_t linger = std::exchange(lingers_, false) ? kLinger : 0;
        size_t worked = 0;
        bool tell = false;
        for (const Watched& w : all_) {
            Connection& c = *w.connection;
            if (w.looks) {
                bool rung = false, wrote = false;
                for (size_t i = w.first; i < w.first + w.count; ++i) rung = rung || polled_[i].revents != 0;
                {
                    std::lock_guard guard(c.lock);
                    if (!c.owned() && (rung || c.due() <= now)) wrote = c.drive(c.kicked() ? linger : 0), ++worked;
                }
                if (wrote) kick_others(c);
            }
            tell = c.take_news() || tell;
        }
        lingers_ = worked == 1;
        if (tell) tell_();
    }
    /// Messages came out of `c` into its channel: those that sleep there send them.
    void kick_others(const Connection& c) {
        if (!c.channel) return;
        full_fence();
        if (c.channel->load(seq_cst) == 0) return;  // KICK
        for (const Watched& w : all_)
            if (w.connection->channel == c.channel && w.connection->kick()) wake();
    }
};

}  // namespace psyne::net
