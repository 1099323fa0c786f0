// A channel comes in: one of the senders of a local channel, whose messages are those of a far one. Its lane begins with
// the session, so a message's position in the lane is its sequence.
//
//   lane    │ let go by all │ published │ lent: the kernel writes here │ free …
//                        let_go_      next_
#pragma once

#include <array>

#include <psyne/net/link.hpp>
#include <psyne/net/message_shape.hpp>
#include <psyne/sender.hpp>

namespace psyne::net {

class InLink final : public Link {
public:
    static constexpr uint64_t kInPlace = 4096;      // so many bytes are worth a system call of their own
    static constexpr uint64_t kLarge = 256 * 1024;  // behind a frame like this only a head is read
    static constexpr size_t kHeads = 128;           // header, head, one stamp, dimensions
    static constexpr uint64_t kAckBytes = 1 << 20;

    /// `max_frame`: bytes of the longest DATA that is accepted. Throws Errc::invalid for a ring that grows, and for one
    /// that was written to.
    InLink(Sender& sender, std::vector<MessageShape> shapes, bool checksum = false, uint64_t max_frame = 64ull << 20)
        : sender_(sender), shapes_(std::move(shapes)), checksum_(checksum), max_frame_(std::max(max_frame, shapes_.most() + 64 * 1024)) {
        if (sender_.grows()) fail(Errc::invalid, "a link writes to a ring that does not grow");
        if (shapes_.most() > sender_.room())
            fail(Errc::invalid, "slots of " + std::to_string(sender_.room()) + " bytes have no room for messages of " + std::to_string(shapes_.most()));
        if (sender_.position() != 0)
            fail(Errc::invalid, "a link begins with a lane, this one has " + std::to_string(sender_.position()) + " messages");
    }

    /// The sequence that is due: all before are published.
    uint64_t next() const noexcept { return next_; }
    uint64_t capacity() const noexcept { return sender_.capacity(); }
    /// Another connection; the peer sends from next() on.
    void connected() noexcept {
        begin_connection();
        if (left_) turn_deaf();
        acks_ = true;
        byes_ = false;  // who has not understood it says END again
    }
    void disconnected() noexcept override {
        Link::disconnected();
        discard();
        leaves_ = left_;
        byes_ = end_;
        end_here_ = false;
    }

    /// Messages that all local stages have let go.
    uint64_t let_go() { return let_go_ = kept_ ? next_ : sender_.let_go_until(let_go_); }
    /// Tells the peer what was let go and received, if it does not know: for who has nothing else to do.
    void acknowledge() { acks_ = acks_ || let_go() != told_let_go_ || next_ != told_next_; }
    /// Nothing more is taken; the peer is told. `keeps`: what has come stays in the channel, so the peer lets go of it.
    void leave(bool keeps = false) noexcept {
        discard();
        leaves_ = left_ = acks_ = true;  // what was let go was not in vain
        kept_ = keeps;
        turn_deaf();
    }
    /// The peer knows that all was let go.
    bool settled() const noexcept { return told_let_go_ == next_; }
    /// Is the peer at the end of its credit, while there is more?
    bool starves() { return next_ - told_let_go_ >= capacity() - capacity() / 4 && let_go() != told_let_go_; }
    bool owes_bye() const noexcept { return byes_; }
    /// The peer has no more to send; `failed()`: because a sender was lost.
    bool ended() const noexcept { return end_; }
    bool failed() const noexcept { return failed_; }
    /// And the peer knows that we know: it never comes back for this link.
    bool parted() const noexcept { return parted_; }
    /// All has come, all was let go, and the peer was told.
    bool finished() const noexcept { return parted_ && !acks_ && told_let_go_ == next_ && unwritten() == 0; }

private:
    Sender& sender_;
    MessageShapes shapes_;
    bool checksum_;
    uint64_t max_frame_;
    uint64_t next_ = 0, let_go_ = 0;           // sequences
    uint64_t told_next_ = 0, told_let_go_ = 0;  // in the last ACK
    uint64_t bytes_ = 0;                       // of payload, since the last ACK
    bool acks_ = false, byes_ = false, leaves_ = false;  // to be told
    bool end_ = false, failed_ = false, left_ = false, kept_ = false, parted_ = false;
    bool end_here_ = false;  // END came in this connection

    // The frame whose payload is coming.
    const MessageShape* shape_ = nullptr;  // null: none
    DataHead head_;
    bool summed_ = false;    // has a checksum
    bool whole_ = false;     // no message before the last byte: of a checksum, columns, dimensions
    uint64_t count_ = 0, left_to_come_ = 0;  // messages, and those that are not published
    uint64_t payload_ = 0;   // bytes that have not come
    uint64_t field_ = 0, done_ = 0;          // column, and bytes of it (of rows: of what is lent) that have come
    uint64_t element_ = 0;   // bytes of a message there
    uint64_t missed_ = 0;
    uint32_t sum_ = 0;
    std::array<Loan, 2> loans_;              // a lap ends between them
    uint64_t stamps_[kMostMessages];
    uint64_t dims_[MessageShape::kMostDims];
    bool stamped_ = false;
    bool large_ = false;     // the last frame was

    // ---- frames -----------------------------------------------------------------------------------------------------

    void plan(uint64_t) override {
        const uint64_t quarter = std::max<uint64_t>(capacity() / 4, 1);
        acks_ = acks_ || pongs() || let_go() - told_let_go_ >= quarter || next_ - told_next_ >= quarter || bytes_ >= kAckBytes ||
                (end_ && let_go_ == next_ && told_let_go_ != next_);
        if (acks_ && add(Frame::ack, let_go(), 8, next_)) {
            acks_ = false;
            told_let_go_ = let_go_, told_next_ = next_, bytes_ = 0;
        }
        if (byes_ && add(Frame::bye)) byes_ = false;
        if (leaves_ && add(Frame::leave)) leaves_ = false;
        plan_common();
    }

    void take(const Header& h, const std::byte* body) override {
        if (h.type == Frame::bye && end_ && !byes_) {
            parted_ = true;
            return;
        }
        if (h.type != Frame::end) violation(h.text() + " came from a sending side");
        if (end_here_ || h.sequence != next_)
            violation(end_here_ ? "a second END came" : "an END says " + std::to_string(h.sequence) + " messages, but " + std::to_string(next_) + " came");
        const auto why = static_cast<uint8_t>(*body);
        if (why > 1) violation("an END gives the reason " + std::to_string(why));
        end_ = end_here_ = byes_ = acks_ = true;
        failed_ = why == 1;
    }

    bool begin(const Header& h, std::span<const std::byte> body, size_t& used) override {
        if (end_) violation(h.text() + " came behind the END");
        if (h.length > max_frame_) violation(h.text() + " is longer than " + std::to_string(max_frame_) + " bytes");
        if (h.sequence != next_) violation(h.text() + " came where message " + std::to_string(next_) + " was due");
        if (body.size() < kDataHead) return false;
        const DataHead d = DataHead::decode(body.data());
        const MessageShape& shape = check(h, d);
        const uint64_t stamps = (h.flags & kStamps) != 0 ? 8ull * h.count : 0;
        used = kDataHead + stamps + shape.dims_bytes();
        if (body.size() < used) return false;

        const std::byte* const at = body.data() + kDataHead;
        std::memcpy(stamps_, at, stamps);
        std::memcpy(dims_, at + stamps, shape.dims_bytes());
        payload_ = h.length - used;
        if (uint64_t elements = 0; shape.shaped && (!shape.elements(dims_, shape.bytes + shape.dims_bytes(), elements) || elements != payload_))
            violation("a message of " + std::to_string(payload_) + " bytes has dimensions of which the first is " + std::to_string(dims_[0]));
        shape_ = &shape, head_ = d;
        summed_ = (h.flags & kChecksum) != 0;
        whole_ = summed_ || shape.shaped || !shape.columns.empty();
        stamped_ = stamps != 0;
        count_ = left_to_come_ = h.count;
        field_ = done_ = 0;
        element_ = shape.columns.empty() ? (shape.shaped ? payload_ : d.size) : shape.columns[0].bytes;
        missed_ = d.missed;
        sum_ = summed_ ? crc32c(at, stamps + shape.dims_bytes()) : 0;
        large_ = payload_ >= kLarge;
        pass_fields();
        return true;
    }

    /// The type of a frame that can be what it says.
    const MessageShape& check(const Header& h, const DataHead& d) const {
        const MessageShape* shape = shapes_.find(d.variant);
        if (!shape) violation("a message says that it is of type " + std::to_string(d.variant) + ", which this channel does not have");
        const bool columns = !shape->columns.empty(), whole = (h.flags & kChecksum) != 0 || columns;
        const bool fits = shape->shaped ? h.count == 1 && d.size >= shape->dims_bytes() && d.size <= shape->most() : d.size == shape->bytes;
        if (!fits || columns != ((h.flags & kColumns) != 0))
            violation(h.text() + " has messages of " + std::to_string(d.size) + " bytes; this type has " + std::to_string(shape->most()) +
                      (shape->shaped ? " at most" : columns ? " in columns" : ""));
        if (h.length != kDataHead + ((h.flags & kStamps) != 0 ? 8ull * h.count : 0) + h.count * d.size)
            violation(h.text() + " does not fit messages of " + std::to_string(d.size) + " bytes");
        if (checksum_ != ((h.flags & kChecksum) != 0)) violation(h.text() + (checksum_ ? " has no checksum" : " has a checksum that nobody asked for"));
        if (whole && h.count > std::max<uint64_t>(capacity() / 2, 1))
            violation(h.text() + " is more than half of a ring of " + std::to_string(capacity()));
        return *shape;
    }

    // ---- payload ----------------------------------------------------------------------------------------------------

    bool midway() const noexcept override { return shape_ != nullptr; }
    size_t wanted() const noexcept override { return large_ ? kHeads : kScratch; }

    std::span<std::byte> landing() override {
        if (!midway() || payload_ < kInPlace || !lend()) return {};
        return place();
    }
    void landed(size_t n) override {
        came(place().first(n));
    }
    size_t absorb(std::span<const std::byte> bytes) override {
        size_t used = 0;
        while (midway() && (payload_ == 0 || used < bytes.size())) {
            if (!lend()) {
                stuck_ = true;
                break;
            }
            if (payload_ == 0) {
                came({});
                continue;
            }
            const std::span<std::byte> to = place();
            const size_t n = std::min(to.size(), bytes.size() - used);
            std::memcpy(to.data(), bytes.data() + used, n);
            used += n;
            came(to.first(n));
        }
        return used;
    }

    uint64_t lent() const noexcept { return loans_[0].count + loans_[1].count; }

    /// Slots for what is coming: for all messages where they count only as a whole, else for as many as there is room.
    bool lend() {
        if (!whole_) {
            for (uint64_t n = std::min(left_to_come_, sender_.rest_of_lap()); lent() == 0 && n != 0; n /= 2) lend(loans_[0], n);
            return lent() != 0;
        }
        for (Loan& loan : loans_)
            if (loan.count == 0 && lent() < left_to_come_ && !lend(loan, std::min(left_to_come_ - lent(), sender_.rest_of_lap()))) return false;
        return true;
    }
    bool lend(Loan& loan, uint64_t n) {
        const uint64_t position = next_ + lent();
        if (!sender_.try_loan(n, loan)) return false;
        if (loan.position != position) fail(Errc::invalid, "somebody else sends in the lane of a link");
        return true;
    }

    /// Where the next bytes belong, as far as that is one piece.
    std::span<std::byte> place() const noexcept {
        const uint64_t i = done_ / element_, byte = done_ % element_;
        const bool second = i >= loans_[0].count;
        const Loan& loan = loans_[second];
        const uint64_t in = second ? i - loans_[0].count : i;
        const Slab& slab = loan.ring->slab;
        const bool columns = !shape_->columns.empty();
        if (columns) return {shape_->column(slab, field_, loan.slot + in) + byte, (loan.count - in) * element_ - byte};
        return {loan.data + in * slab.stride + byte, slab.stride == element_ ? (loan.count - in) * element_ - byte : element_ - byte};
    }

    /// Bytes have come where they belong.
    void came(std::span<const std::byte> bytes) {
        if (summed_) sum_ = crc32c(bytes.data(), bytes.size(), sum_);
        payload_ -= bytes.size();
        bytes_ += bytes.size();
        done_ += bytes.size();
        if (!whole_) {
            const uint64_t n = element_ == 0 ? lent() : done_ / element_;
            publish(n);
            done_ -= n * element_;
        } else if (payload_ == 0) {
            if (summed_ && sum_ != head_.checksum)
                violation("the payload of " + std::to_string(count_) + " messages from " + std::to_string(next_) + " on has the checksum " +
                          std::to_string(sum_) + ", the frame says " + std::to_string(head_.checksum));
            if (shape_->shaped) std::memcpy(shape_->dims_at(loans_[0].data, loans_[0].room), dims_, shape_->dims_bytes());
            publish(lent());
        } else {
            pass_fields();
        }
        if (left_to_come_ == 0) shape_ = nullptr;
    }
    /// Behind the columns that have come.
    void pass_fields() noexcept {
        while (field_ + 1 < shape_->columns.size() && done_ == count_ * element_) element_ = shape_->columns[++field_].bytes, done_ = 0;
    }

    /// Publishes the first `n` messages of those that are lent.
    void publish(uint64_t n) noexcept {
        while (n != 0) {
            Loan& loan = loans_[0];
            Loan part = loan;
            part.count = std::min(n, loan.count);
            part.variant = head_.variant;
            if (missed_ != 0) sender_.drop(std::exchange(missed_, 0));
            keep_stamps(part);
            sender_.commit(part, part.count);
            next_ += part.count, left_to_come_ -= part.count, n -= part.count;
            loan.position += part.count, loan.slot += part.count, loan.count -= part.count;
            loan.data += part.count * loan.ring->slab.stride;
            if (loan.count == 0) loan = std::exchange(loans_[1], {});
        }
    }
    /// 0: the peer keeps no time.
    void keep_stamps(const Loan& part) const noexcept {
        Atomic64* const remote = part.ring->slab.remote;
        const uint64_t from = count_ - left_to_come_;
        for (uint64_t i = 0; remote && i < part.count; ++i) remote[part.slot + i].store(stamped_ ? stamps_[from + i] : 0, relaxed);
    }

    /// What is lent was never there.
    void discard() noexcept {
        for (Loan* loan : {&loans_[1], &loans_[0]}) {
            if (loan->count != 0) sender_.discard(*loan);
            *loan = {};
        }
        shape_ = nullptr;
    }
};

}  // namespace psyne::net
