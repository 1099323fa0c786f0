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
    /// In a forked child: the thread is not here.
    void abandon() noexcept { thread_.detach(); }

    void add(std::shared_ptr<Connection> c) {
        {
            std::lock_guard guard(lock_);
            connections_.push_back(std::move(c));
        }
        wake();
    }
    void remove(const Connection& c) {
        {
            std::lock_guard guard(lock_);
            std::erase_if(connections_, [&](const auto& other) { return other.get() == &c; });
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
    std::thread thread_;

    struct Watched {
        std::shared_ptr<Connection> connection;
        size_t first = 0, count = 0;  // in what is polled
    };

    void run() {
        std::vector<Watched> all;
        std::vector<pollfd> polled;
        while (!stopping_.load()) {
            {
                std::lock_guard guard(lock_);
                all.clear();
                for (const auto& c : connections_) all.push_back({c});
            }
            polled.assign(1, {woken_.get(), POLLIN, 0});
            uint64_t due = kForever;
            for (Watched& w : all) {
                std::lock_guard guard(w.connection->lock);
                w.first = polled.size();
                due = std::min(due, w.connection->wait_for(polled, false));
                w.count = polled.size() - w.first;
            }
            const uint64_t now = sys::now_ns();
            const int ms = due == kForever ? -1 : due <= now ? 0 : static_cast<int>(std::min<uint64_t>((due - now) / 1'000'000 + 1, 60'000));
            ::poll(polled.data(), static_cast<nfds_t>(polled.size()), ms);
            if (polled[0].revents != 0) sys::drain_fifo(woken_);
            const uint64_t then = sys::now_ns();
            bool tell = false;
            for (const Watched& w : all) {
                bool rung = polled[0].revents != 0;
                for (size_t i = w.first; i < w.first + w.count; ++i) rung = rung || polled[i].revents != 0;
                std::lock_guard guard(w.connection->lock);
                if (!w.connection->owned() && (rung || w.connection->due() <= then)) w.connection->drive(w.connection->kicked() ? kLinger : 0);
                tell = w.connection->take_news() || tell;
            }
            if (tell) tell_();
        }
    }
};

}  // namespace psyne::net
