// The local side of a connection: a link and the end of the channel that it reads or writes.
#pragma once

#include <psyne/net/in_link.hpp>
#include <psyne/net/out_link.hpp>
#include <psyne/net/tap_link.hpp>

namespace psyne::net {

class Side {
public:
    virtual ~Side() = default;
    virtual Link& link() noexcept = 0;
    /// Does it write to the channel?
    virtual bool incoming() const noexcept = 0;
    /// Another connection, over which messages from `next` on come first. `capacity`: of the far ring.
    virtual void connected(uint64_t next, uint64_t capacity) = 0;
    /// A session with a far end that has nothing of the one before.
    virtual void restart() = 0;
    /// What became of the link: "closed" or "failed" (the far senders), "understood" (the far end knows that ours closed),
    /// "left" (the far receiver); null: it goes on.
    virtual const char* over() const noexcept = 0;
    /// The peer never comes back for this link: no connection is needed any more, though one may still be of use.
    virtual bool parted() const noexcept = 0;
    /// And nothing has to be said any more.
    virtual bool finished() const noexcept = 0;

    // ---- the channel wakes the link -----------------------------------------------------------------------------

    /// Can the link go on only when something happens in the channel?
    virtual bool waits() noexcept = 0;
    /// Has it happened? Looked at again after `arm`.
    virtual bool ready() = 0;
    /// From here on whoever makes it happen makes a descriptor readable.
    virtual int arm() = 0;
    virtual void disarm() noexcept = 0;
    /// Once in a while, as every end does: looks after the others. True: look for messages.
    virtual bool look_after_others() = 0;

    // ---- acknowledgements ---------------------------------------------------------------------------------------

    /// Does the peer not know all yet that it waits for, or will wait for?
    virtual bool owes() noexcept { return false; }
    /// Could the peer send more, if it knew what was let go?
    virtual bool starves() noexcept { return false; }
    virtual void acknowledge() noexcept {}
};

template <class L, class End>
class SideOf : public Side {
public:
    template <class... Options>
    explicit SideOf(End& end, Options&&... options) : end_(end), link_(end, std::forward<Options>(options)...) {}
    L& link() noexcept final { return link_; }
    bool ready() override { return end_.ready(); }
    int arm() final {
        if (!bell_) {
            const FifoPlace place = end_.registry.file.storage().fifos();
            bell_ = std::make_unique<Bell>(place.directory, bell_name(place.prefix, end_.registry.join()));
        }
        end_.arm(*bell_, true);
        return bell_->fd();
    }
    void disarm() noexcept final { end_.disarm(true); }
    bool look_after_others() final {
        const bool look = end_.slice() == 0;
        end_.registry.burials = {};  // nobody tells of them here
        return look;
    }

protected:
    End& end_;
    L link_;

private:
    std::unique_ptr<Bell> bell_;
};

/// What leaves a local channel: OutLink of a Receiver, TapLink of a Tap.
template <class L, class End>
class OutSide final : public SideOf<L, End> {
public:
    using SideOf<L, End>::SideOf;
    bool incoming() const noexcept override { return false; }
    void connected(uint64_t next, uint64_t capacity) override { this->link_.connected(next, capacity); }
    void restart() override { this->link_.restart(); }
    const char* over() const noexcept override {
        if (this->link_.understood()) return this->link_.owes_bye() ? nullptr : "understood";
        return this->link_.left() ? "left" : nullptr;
    }
    bool parted() const noexcept override { return over() != nullptr; }
    bool finished() const noexcept override { return this->link_.left() || this->link_.finished(); }
    bool waits() noexcept override { return this->link_.unwritten() == 0 && this->link_.wants_messages(); }
    bool ready() override {
        if (!this->end_.registry.burials.dead.empty()) this->end_.registry.burials = {};
        if constexpr (std::is_same_v<End, Receiver>)  // it may hold all that there is, which is no reason to look
            return this->end_.there(1) != 0 || (this->end_.ended_now() && (!this->end_.follow || this->end_.closed()));
        else
            return this->end_.ready();
    }
};

/// What comes into one.
class InSide final : public SideOf<InLink, Sender> {
public:
    using SideOf::SideOf;
    bool incoming() const noexcept override { return true; }
    void connected(uint64_t, uint64_t) override { link_.connected(); }
    void restart() override { fail(Errc::invalid, "another session comes into another lane"); }
    const char* over() const noexcept override {
        return !link_.ended() || link_.owes_bye() ? nullptr : link_.failed() ? "failed" : "closed";
    }
    bool parted() const noexcept override { return link_.parted(); }
    bool finished() const noexcept override { return link_.finished(); }
    bool waits() noexcept override { return link_.stuck(); }
    bool owes() noexcept override { return !link_.settled(); }
    bool starves() noexcept override { return link_.starves(); }
    void acknowledge() noexcept override { link_.acknowledge(); }
};

}  // namespace psyne::net
