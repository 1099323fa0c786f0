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
        if (c->channel != sleepers) c->channel = sleepers;  // it may come back: others read it
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
    /// Something became of the channel: whoever waits in `receive`, or sleeps until it is kicked, looks again.
    void wake() noexcept {
        sys::write_byte(waker_);
        if (asleep()) kick();
    }
    /// Readable: its connections must be driven.
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
        if (!pump_) {  // who moves the bytes must hear by when it has to look again: nobody else moves them
            if (r.try_take(limit, out)) return Wait::ready;
            if (r.over()) return Wait::stopped;
            return deadline == 0 ? Wait::timeout : r.receive(limit, out, deadline, tick);
        }
        look_for_connections();
        if (deadline == 0) return drive_until(r, limit, out, deadline, tick);  // it does not stay
        const Owning owning(*this);
        return drive_until(r, limit, out, deadline, tick);
    }

    /// Nobody is going to call `receive` soon: others drive them. What their peers wait for is said before.
    void leave() noexcept {
        if (!pump_) return acknowledge();
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
    std::vector<std::shared_ptr<Connection>> mine_;  // those that messages come from
    std::vector<pollfd> polled_;
    std::vector<size_t> first_;
    uint64_t seen_ = 0;
    uint64_t usual_ = kShort;  // ns that a wait takes, smoothed
    uint32_t in_vain_ = 0;     // spins in a row

    static constexpr uint64_t kShort = 200'000, kPatience = 100'000;  // ns: of a round trip between two that sleep; of spinning
    /// For how long a wait looks at the socket before it sleeps. Where waits are short, both sides need not be woken.
    uint64_t patience(Spinner::Mode mode) const noexcept {
        if (mode == Spinner::Mode::spin) return kForever;
        return mode == Spinner::Mode::block || usual_ >= kShort ? 0 : kPatience;
    }
    void spun_in_vain() noexcept {
        if (++in_vain_ < 3) return;
        in_vain_ = 0;
        usual_ = 4 * kShort;  // for some waits there is no spinning
    }
    void waited(uint64_t ns, bool spun) noexcept {
        usual_ = (7 * usual_ + std::min(ns, 4 * kShort)) / 8;
        if (spun) in_vain_ = 0;
    }

    void acknowledge() noexcept {
        std::lock_guard guard(lock_);
        for (const auto& c : connections_) {
            std::lock_guard inside(c->lock);
            if (!c->side().starves()) continue;
            c->drive();
            if (!pump_ || c->has_news() || (c->needs().events & POLLOUT) != 0) pass_on();
        }
    }
    /// Whoever drives the connections while nobody else does has something to do.
    void pass_on() noexcept {
        if (pump_) pump_->wake();
        else sys::write_byte(waker_);
    }

    /// While a thread waits for messages.
    struct Owning {
        Gateway& gateway;
        explicit Owning(Gateway& g) : gateway(g) { gateway.own(); }
        ~Owning() {
            if (gateway.disown()) gateway.pass_on();
        }
    };
    /// Then looks for messages: what the pump was about to bring is there.
    void own() {
        for (const auto& c : mine_) {
            std::lock_guard guard(c->lock);
            c->own();
        }
    }
    bool disown() noexcept {
        bool pump_sleeps = false;
        for (const auto& c : mine_) pump_sleeps = c->disown() || pump_sleeps;
        return pump_sleeps;
    }
    /// True: there are others.
    bool look_for_connections() {
        if (changed_.load(acquire) == seen_) return false;
        if (disown()) pass_on();
        std::lock_guard guard(lock_);
        mine_.clear();
        for (const auto& c : connections_)
            if (c->side().incoming()) mine_.push_back(c);
        seen_ = changed_.load(relaxed);
        return true;
    }

    template <class Tick>
    Wait drive_until(Receiver& r, uint64_t limit, Taken& out, uint64_t deadline, Tick&& tick) {
        const uint64_t start = sys::now_ns();
        uint64_t budget = deadline == 0 ? 0 : patience(r.wait_mode()), now = start;
        for (bool looked = false;; looked = true) {
            if (r.try_take(limit, out)) {
                if (deadline != 0) waited(now - start, budget != 0);
                return Wait::ready;
            }
            if (r.over()) return Wait::stopped;
            if (r.registry.due()) {
                r.look_after_others();
                if (!tick()) return Wait::interrupted;
            }
            now = sys::now_ns();
            if (looked && now >= deadline) return Wait::timeout;
            if (look_for_connections() && deadline != 0) {
                own();
                continue;
            }
            if (budget != 0 && now - start >= budget) budget = 0, spun_in_vain();
            if (budget != 0 && mine_.size() == 1) look();
            else drive(now, budget != 0 ? now : std::min(deadline, now + kSlice), deadline != 0);
        }
    }
    /// At one connection there is nothing to choose from.
    void look() {
        Connection& c = *mine_[0];
        bool wrote;
        {
            std::lock_guard guard(c.lock);
            wrote = c.drive();
        }
        tell(wrote);
    }
    /// Waits until `until`, and drives what has something to do. `stays`: it owns them.
    void drive(uint64_t now, uint64_t until, bool stays) {
        polled_.assign(1, {woken_.get(), POLLIN, 0});
        first_.clear();
        for (const auto& c : mine_) {
            std::lock_guard guard(c->lock);
            first_.push_back(polled_.size());
            until = std::min(until, c->wait_for(polled_));
        }
        first_.push_back(polled_.size());
        const uint64_t ns = until > now ? until - now : 0;
        const int ms = static_cast<int>((ns + 999'999) / 1'000'000);
        if (::poll(polled_.data(), static_cast<nfds_t>(polled_.size()), ms) < 0 && errno != EINTR) ::usleep(1000);  // no memory
        if (polled_[0].revents != 0) sys::drain_fifo(woken_);
        const uint64_t then = sys::now_ns();
        bool wrote = false, late = false;
        for (size_t i = 0; i < mine_.size(); ++i) {
            bool rung = false;
            for (size_t k = first_[i]; k < first_[i + 1]; ++k) rung = rung || polled_[k].revents != 0;
            std::lock_guard guard(mine_[i]->lock);
            if (rung || mine_[i]->due() <= then) wrote = mine_[i]->drive() || wrote;
            late = late || (!stays && mine_[i]->pump_is_late());
        }
        if (late) pass_on();
        tell(wrote);
    }
    /// `wrote`: to the channel, where others may sleep.
    void tell(bool wrote) {
        if (wrote && asleep()) kick();
        for (const auto& c : mine_)
            if (c->has_news()) return pass_on();  // it tells
    }
};

}  // namespace psyne::net
