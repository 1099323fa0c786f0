// The sending side of a link: credit, what the far end says of it, and the end. out_link.hpp and tap_link.hpp know where
// messages come from.
//
//      let go by the far end        received there                     in frames      most that may be
//   ──┬───────────────────────────┬────────────────────────────────────┬──────────────┬──────────▶ sequence
//     0                         acked_                received_      sent_         let_go_ + capacity_
//
// Frames up to flown_ are written; what is let go in one that is not yet is kept until it is: let_go_ ≤ acked_, flown_.
#pragma once

#include <psyne/net/link.hpp>
#include <psyne/net/message_shape.hpp>

namespace psyne::net {

class SourceLink : public Link {
public:
    SourceLink(std::vector<MessageShape> shapes, bool checksum) : shapes_(std::move(shapes)), checksum_(checksum) {}

    /// A connection whose far end has all messages before `next`, and `capacity` slots. Throws Errc::protocol for what
    /// cannot be.
    virtual void connected(uint64_t next, uint64_t capacity) {
        if (capacity == 0) violation("the ring of the peer has no slots");
        if (next < received_ || next > sent_most())
            violation("the peer goes on with message " + std::to_string(next) + ", but it had " + std::to_string(received_) + " of " +
                      std::to_string(sent_most()));
        begin_connection();
        capacity_ = capacity;
        sent_ = flown_ = received_ = next;
        byes_ = understood_;
    }
    void disconnected() noexcept override {
        Link::disconnected();
        capacity_ = 0;
        end_sent_ = byes_ = false;
    }

    /// Messages that the far end has let go, has in its ring, and that were put into frames.
    uint64_t let_go() const noexcept { return let_go_; }
    uint64_t received() const noexcept { return received_; }
    uint64_t sent() const noexcept { return sent_; }
    /// Messages that are under way, or that the far end has not let go.
    uint64_t outstanding() const noexcept { return sent_ - let_go_; }
    /// Messages of the local channel that contradict themselves. The far end knows them as missed.
    uint64_t corrupted() const noexcept { return corrupted_; }
    /// It has sent all that there was, and may send more.
    bool wants_messages() const noexcept { return !end_sent_ && !left_ && !understood_ && !finishes_ && credit(sent_) != 0; }
    /// Another far end, which has nothing: what was not let go comes first, from sequence 0 on. Not while connected.
    virtual void restart() noexcept {
        let_go_ = acked_ = received_ = sent_ = flown_ = 0;
        left_ = understood_ = finishes_ = false;
    }
    /// No more is sent than was: it ends as if the last sender had closed.
    void finish() noexcept { finishes_ = true; }
    /// The far end closed and takes no more.
    bool left() const noexcept { return left_; }
    /// The far end has all messages, and knows that it was the last.
    bool understood() const noexcept { return understood_; }
    /// The far end still has to hear that we know that.
    bool owes_bye() const noexcept { return byes_; }
    /// And it has let go of all, and heard that we know it.
    bool finished() const noexcept { return understood_ && !byes_ && let_go_ == sent_ && unwritten() == 0; }

protected:
    bool finishes() const noexcept { return finishes_; }

    MessageShapes shapes_;
    bool checksum_;
    uint64_t capacity_ = 0;  // of the far ring; 0: not connected
    uint64_t let_go_ = 0, acked_ = 0, received_ = 0, sent_ = 0;
    uint64_t corrupted_ = 0;

    /// All messages that were ever put into frames, or may be again.
    virtual uint64_t sent_most() const noexcept { return sent_; }
    /// The far end has let go all messages before `until`.
    virtual void ended(uint64_t until) = 0;
    /// Adds DATA frames while the outbox has fewer bytes.
    virtual void fill(uint64_t bytes) = 0;
    /// All is in frames, and nothing more will come; `lost`: because of a sender that died or failed.
    virtual bool over(bool& lost) = 0;

    uint64_t credit(uint64_t next) const noexcept { return capacity_ - std::min(capacity_, next - let_go_); }
    /// Messages of a type that one frame may have.
    uint64_t most_messages(const MessageShape& shape) const noexcept {
        uint64_t n = shape.shaped ? 1 : std::min<uint64_t>(kMostMessages, kMostPayload / std::max<uint64_t>(shape.bytes, 1));
        if (checksum_ || !shape.columns.empty()) n = std::min(n, capacity_ / 2);  // it counts only as a whole
        return std::max<uint64_t>(n, 1);
    }

    /// The heads of a DATA frame of `count` messages of `size` bytes each; its stamps and payload come behind it.
    std::byte* head(const MessageShape& shape, uint64_t count, uint64_t size, uint64_t missed, bool stamps) noexcept {
        Header h{Frame::data, 0, static_cast<uint32_t>(count), kDataHead + (stamps ? 8 * count : 0) + count * size, sent_};
        h.flags = static_cast<uint16_t>((stamps ? kStamps : 0) | (checksum_ ? kChecksum : 0) | (shape.columns.empty() ? 0 : kColumns));
        std::byte* at = outbox_.head(kHeader + kDataHead);
        h.encode(at);
        DataHead{shape.variant, static_cast<uint32_t>(std::min<uint64_t>(missed, ~0u)), 0, size}.encode(at + kHeader);
        sum_ = 0;
        return at;
    }
    void piece(const std::byte* data, uint64_t n) noexcept {
        outbox_.add(data, n);
        if (checksum_) sum_ = crc32c(data, n, sum_);
    }
    void add_to_sum(const std::byte* data, uint64_t n) noexcept { sum_ = crc32c(data, n, sum_); }
    /// The frame that begins at `head` has all its pieces.
    void close_frame(std::byte* head, uint64_t count) noexcept {
        if (checksum_) put(head + kHeader + 12, sum_);
        sent_ += count;
        outbox_.mark(sent_);
    }

private:
    bool left_ = false, understood_ = false, end_sent_ = false, finishes_ = false, byes_ = false;
    uint32_t sum_ = 0;

    void plan(uint64_t bytes) final {
        settle();
        plan_common();
        if (byes_ && !closing() && add(Frame::bye)) byes_ = false;
        if (closing() || capacity_ == 0 || end_sent_ || left_ || understood_) return;
        fill(bytes);
        bool lost = false;
        if (finishes_ ? sent_ == sent_most() : over(lost)) end_sent_ = add(Frame::end, sent_, 1, lost);
    }
    bool begin(const Header& h, std::span<const std::byte>, size_t&) final { violation(h.text() + " came from a receiving side"); }
    void take(const Header& h, const std::byte* body) final {
        switch (h.type) {
            case Frame::ack: acknowledged(h.sequence, get<uint64_t>(body)); break;
            case Frame::bye:
                if (!end_sent_ || flown_ != sent_) violation("the peer understood an end that was not sent");
                received_ = sent_;
                understood_ = byes_ = true;
                break;
            case Frame::leave: left_ = true; break;
            default: violation(h.text() + " came from a receiving side");
        }
    }
    void acknowledged(uint64_t until, uint64_t received) {
        if (until < acked_ || received < received_ || until > received || received > sent_)
            violation("an ACK says " + std::to_string(until) + " let go and " + std::to_string(received) + " received, after " +
                      std::to_string(acked_) + " and " + std::to_string(received_) + " of " + std::to_string(sent_) + " sent");
        received_ = received, acked_ = until;
        settle();
    }
    void settle() {
        const uint64_t until = std::min(acked_, flown_);
        ended(until);
        let_go_ = until;
    }
};

}  // namespace psyne::net
