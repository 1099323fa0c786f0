// What carries one channel over a network: its connections, and what the threads that use its local end do for them.
#pragma once

#include <psyne/net/pump.hpp>
#include <psyne/receiver.hpp>

namespace psyne::net {

class Gateway {
public:
    /// `pump`: drives the connections; null: whoever watches `fileno` does.
    explicit Gateway(std::shared_ptr<Pump> pump) : pump_(std::move(pump)) {
        std::tie(woken_, waker_) = sys::make_pipe();
    }
    ~Gateway() {
        for (const auto& c : connections_)
            if (pump_) pump_->remove(*c);
    }

    void add(std::shared_ptr<Connection> c) {
        {
            std::lock_guard guard(lock_);
            connections_.push_back(c);
            changed_.fetch_add(1, release);
        }
        if (pump_) pump_->add(std::move(c));
        wake();
    }
    void remove(const Connection& c) {
        if (pump_) pump_->remove(c);
        std::lock_guard guard(lock_);
        std::erase_if(connections_, [&](const auto& other) { return other.get() == &c; });
        changed_.fetch_add(1, release);
    }
    /// Ends the wait of a thread that is in `receive`: it looks again. So does a loop that watches `fileno`.
    void wake() noexcept { sys::write_byte(waker_); }
    int fileno() const noexcept { return woken_.get(); }
    void hush() noexcept { sys::drain_fifo(woken_); }

    const std::shared_ptr<Sleepers> sleepers = std::make_shared<Sleepers>(0);

    /// After a message was sent to the channel: does a connection sleep, that `kick` must wake?
    bool asleep() const noexcept {
        full_fence();
        return sleepers->load(seq_cst) != 0;  // KICK
    }
    void kick() noexcept {
        bool hand_over = false;
        {
            std::lock_guard guard(lock_);
            for (const auto& c : connections_) hand_over = c->kick() || hand_over;
        }
        if (hand_over) pass_on();
    }

    /// Waits for messages as Receiver::receive does, and drives the connections that they come from meanwhile.
    template <class Tick>
    Wait receive(Receiver& r, uint64_t limit, Taken& out, uint64_t deadline, Tick&& tick) {
        look_for_connections();
        for (const auto& c : mine_) c->own();
        const Wait result = drive_until(r, limit, out, deadline, tick);
        for (const auto& c : mine_) c->disown();
        return result;
    }

    /// Nobody is going to call `receive` soon: the pump drives them.
    void leave() noexcept {
        bool owned = false;
        {
            std::lock_guard guard(lock_);
            for (const auto& c : connections_) owned = c->leave() || owned;
        }
        if (owned) pass_on();
    }

private:
    const std::shared_ptr<Pump> pump_;
    sys::Fd woken_, waker_;
    std::mutex lock_;
    std::vector<std::shared_ptr<Connection>> connections_;
    std::atomic<uint64_t> changed_{0};  // how often

    // Of the thread that uses the end.
    std::vector<std::shared_ptr<Connection>> mine_;
    std::vector<pollfd> polled_;
    std::vector<size_t> first_;
    uint64_t seen_ = 0;

    /// Whoever drives the connections while nobody else does has something to do.
    void pass_on() noexcept {
        if (pump_) pump_->wake();
        else wake();
    }
    void look_for_connections() {
        if (changed_.load(acquire) == seen_) return;
        std::lock_guard guard(lock_);
        for (const auto& c : mine_) c->disown();
        mine_ = connections_;
        seen_ = changed_.load(relaxed);
    }

    template <class Tick>
    Wait drive_until(Receiver& r, uint64_t limit, Taken& out, uint64_t deadline, Tick&& tick) {
        for (bool looked = false;; looked = true) {
            if (r.try_take(limit, out)) return Wait::ready;
            if (r.over()) return Wait::stopped;
            if (r.registry.due()) {
                r.look_after_others();
                if (!tick()) return Wait::interrupted;
            }
            const uint64_t now = sys::now_ns();
            if (looked && now >= deadline) return Wait::timeout;
            if (changed_.load(acquire) != seen_) {
                look_for_connections();
                for (const auto& c : mine_) c->own();
            }
            uint64_t until = std::min(deadline, now + kSlice);
            polled_.assign(1, {woken_.get(), POLLIN, 0});
            first_.clear();
            for (const auto& c : mine_) {
                std::lock_guard guard(c->lock);
                first_.push_back(polled_.size());
                until = std::min(until, c->wait_for(polled_, true));
            }
            first_.push_back(polled_.size());
            const uint64_t ns = until > now ? until - now : 0;
            ::poll(polled_.data(), static_cast<nfds_t>(polled_.size()), static_cast<int>((ns + 999'999) / 1'000'000));
            if (polled_[0].revents != 0) sys::drain_fifo(woken_);
            const uint64_t then = sys::now_ns();
            bool news = false;
            for (size_t i = 0; i < mine_.size(); ++i) {
                bool rung = false;
                for (size_t k = first_[i]; k < first_[i + 1]; ++k) rung = rung || polled_[k].revents != 0;
                std::lock_guard guard(mine_[i]->lock);
                if (rung || mine_[i]->due() <= then) mine_[i]->drive();
                news = news || mine_[i]->has_news();
            }
            if (news) pass_on();  // it tells
        }
    }
};

}  // namespace psyne::net
