// A stranger answers an outgoing link. Whatever it says: what the link writes stays a session of right frames, no message is
// let go that was not written, and a good peer that comes afterwards gets the rest.
#include <psyne/net/out_link.hpp>

#include "channels.hpp"

namespace fuzz {

namespace {

using namespace psyne;
using namespace psyne::net;

constexpr uint64_t kMemory = 192 * 1024;  // that a link may allocate while it reads: the last words of a peer

/// Byte `i` of the message with this number.
std::byte byte_of(uint64_t number, uint64_t i) { return static_cast<std::byte>(number * 31 + i); }

class Harness {
public:
    Harness(std::vector<MessageShape> shapes, bool checksum) : c_(std::move(shapes), checksum) { begin_link(); }

    void run(Input input, bool ends) {
        Cuts cuts(input[1]);
        stream_.assign(input.begin() + 2, input.end());
        base_ = link_->let_go();
        raise(stream_);
        for (uint64_t n = cuts.below(c_.capacity) + 1; n != 0; --n) send();
        if (ends) c_.close_sender(cuts.one_in(2));
        written_.clear();
        begins_ = base_;
        link_->connected(base_, 1 + cuts.below(c_.capacity));

        const uint64_t before = memory_peak() = memory_live();
        feed(stream_, cuts);
        const uint64_t grown = memory_peak() - before;
        if (grown > kMemory + written_.capacity()) wrong("the link allocated " + std::to_string(grown) + " bytes");
        check_frames();
        stop_counting();
        link_->disconnected();
        if (ends) c_.open_sender();
        recover();
    }

private:
    Channel c_;
    std::unique_ptr<OutLink> link_;
    Bytes stream_, written_;
    uint64_t base_ = 0;     // sequence of the first message of this run
    uint64_t begins_ = 0;   // sequence of the first message of this connection
    uint64_t sent_ = 0;     // messages of this link that are in the ring, ever
    uint64_t number_ = 0;   // of the first message of this link

    void begin_link() {
        number_ += sent_;
        sent_ = base_ = 0;
        link_ = std::make_unique<OutLink>(*c_.rx, c_.shapes, c_.checksum);
    }

    const MessageShape& shape_of(uint64_t sequence) const { return c_.shapes[(number_ + sequence) % c_.shapes.size()]; }
    uint64_t elements(uint64_t sequence) const { return (number_ + sequence) % 8; }

    /// The next message goes into the ring.
    NOT_COUNTED void send() {
        const uint64_t number = number_ + sent_;
        const MessageShape& shape = shape_of(sent_);
        Loan loan;
        require(c_.tx->try_loan(1, loan), "the ring has no room");
        loan.variant = shape.variant;
        loan.ring->slab.remote[loan.slot].store(number, relaxed);
        const uint64_t fields = shape.columns.size();
        const uint64_t bytes = shape.shaped ? 2 * elements(sent_) * shape.element : shape.bytes;
        for (uint64_t f = 0, i = 0; f < std::max<uint64_t>(fields, 1); ++f) {
            std::byte* to = fields != 0 ? shape.column(loan.ring->slab, f, loan.slot) : loan.data;
            for (uint64_t n = fields != 0 ? shape.columns[f].bytes : bytes, k = 0; k < n; ++k) to[k] = byte_of(number, i++);
        }
        if (shape.shaped) {
            const uint64_t dims[2] = {2, elements(sent_)};
            std::memcpy(shape.dims_at(loan.data, loan.room), dims, sizeof dims);
        }
        c_.tx->commit(loan, 1);
        ++sent_;
    }

    /// Sequences of ACKs count from `base_` on, as far as there are frames.
    NOT_COUNTED void raise(std::span<std::byte> s) {
        for (size_t at = 0; s.size() - at >= kHeader;) {
            std::byte* const h = &s[at];
            Header header;
            try {
                header = Header::decode(h);
            } catch (const Error&) {
                return;
            }
            const size_t there = s.size() - at - kHeader;
            if (header.type == Frame::ack) {
                header.sequence += base_;
                header.encode(h);
                if (there >= 8) put(h + kHeader, get<uint64_t>(h + kHeader) + base_);
            }
            if (header.length > there) return;
            at += kHeader + header.length;
        }
    }

    void write(uint64_t bytes) {
        iovec pieces[16];
        const size_t n = link_->gather(pieces, std::size(pieces), bytes);
        size_t sum = 0;
        for (size_t i = 0; i < n; ++i) {
            const auto* data = static_cast<const std::byte*>(pieces[i].iov_base);
            written_.insert(written_.end(), data, data + pieces[i].iov_len);
            sum += pieces[i].iov_len;
        }
        require(sum <= bytes, "more was gathered than was asked for");
        if (sum != 0) link_->written(sum);
    }

    void feed(std::span<const std::byte> bytes, Cuts& cuts) {
        try {
            for (size_t at = 0; at < bytes.size() && link_->refused().empty();) {
                if (!cuts.one_in(4)) write(cuts.one_in(2) ? 1 << 20 : 1 + cuts.below(200));
                const std::span<std::byte> to = link_->buffer();
                require(!to.empty() && !link_->stuck(), "an outgoing link is stuck");
                const size_t n = cuts.next(std::min(to.size(), bytes.size() - at));
                std::memcpy(to.data(), &bytes[at], n);
                link_->arrived(n);
                at += n;
                require(link_->let_go() <= link_->received() && link_->received() <= link_->sent() && link_->sent() <= sent_,
                        "numbers of messages that cannot be");
                if (c_.tx) require(c_.tx->position() - held() <= link_->let_go() + (c_.tx->position() - sent_), "a message was let go too early");
            }
            write(1 << 20);
        } catch (const Error& e) {
            if (e.code != Errc::protocol) wrong(std::string("not a violation, but: ") + e.what());
        }
    }
    uint64_t held() const { return c_.tx->occupied(); }

    /// All that was written in this connection.
    NOT_COUNTED void check_frames() {
        uint64_t next = begins_;
        for (size_t at = 0; written_.size() - at >= kHeader;) {
            const Header h = Header::decode(&written_[at]);
            const size_t there = written_.size() - at - kHeader;
            if (h.type == Frame::data) {
                require_equal(h.sequence, next, "the sequence of a frame");
                require(next + h.count <= sent_, "a frame of messages that are not there");
                if (there < h.length) break;
                check_data(h, &written_[at] + kHeader);
                next += h.count;
            } else if (h.type == Frame::end) {
                require(h.sequence == next && next == sent_, "an END before the end");
            } else {
                require(h.type == Frame::pong || (h.type == Frame::bye && link_->understood()), "a frame of a type that it does not send");
            }
            if (there < h.length) break;
            at += kHeader + h.length;
        }
        require(link_->let_go() <= next, "what was not written whole was let go");
    }
    NOT_COUNTED void check_data(const Header& h, const std::byte* body) const {
        const DataHead d = DataHead::decode(body);
        const MessageShape& shape = shape_of(h.sequence);
        const bool stamps = (h.flags & kStamps) != 0;
        require(stamps && d.variant == shape.variant && h.length == kDataHead + 8 * h.count + h.count * d.size, "the head of a frame");
        if (c_.checksum) require_equal(crc32c(body + kDataHead, h.length - kDataHead), d.checksum, "a checksum");
        const std::byte* payload = body + kDataHead + 8 * h.count;
        for (uint64_t i = 0; i < h.count; ++i) {
            const uint64_t sequence = h.sequence + i, number = number_ + sequence;
            uint64_t stamp;
            std::memcpy(&stamp, body + kDataHead + 8 * i, 8);
            require_equal(stamp, number, "a time");
            const std::byte* at = payload + i * d.size;
            if (shape.shaped) {
                uint64_t dims[2];
                std::memcpy(dims, at, 16);
                require(dims[0] == 2 && dims[1] == elements(sequence) && d.size == 16 + 8 * dims[1], "a shape");
                for (uint64_t k = 16; k < d.size; ++k) require(at[k] == byte_of(number, k - 16), "a payload");
            } else if (shape.columns.empty()) {
                for (uint64_t k = 0; k < d.size; ++k) require(at[k] == byte_of(number, k), "a payload");
            } else {
                const std::byte* column = payload;
                uint64_t k = 0;
                for (const auto& c : shape.columns) {
                    for (uint64_t b = 0; b < c.bytes; ++b) require(column[i * c.bytes + b] == byte_of(number, k++), "a column");
                    column += h.count * c.bytes;
                }
            }
        }
    }

    /// A good peer gets what is left and lets go of it; a new link begins where this one is over.
    void recover() {
        if (link_->left() || link_->understood()) {
            link_->give_back();
            Taken t;
            while (c_.rx->try_take(c_.capacity, t)) c_.rx->end(t, false);
            begin_link();
            return;
        }
        written_.clear();
        begins_ = link_->received();
        link_->connected(begins_, c_.capacity);
        for (uint64_t before = ~0ull; before != written_.size();) {
            before = written_.size();
            write(1 << 20);
        }
        check_frames();
        require_equal(link_->sent(), sent_, "messages that a good peer gets");
        std::byte ack[kHeader + 8];
        Header{Frame::ack, 0, 0, 8, sent_}.encode(ack);
        put(ack + kHeader, sent_);
        Cuts all(std::byte{0});
        feed(ack, all);
        require_equal(link_->let_go(), sent_, "messages that a good peer let go");
        require(c_.tx->occupied() == 0, "the ring keeps what was let go");
        link_->disconnected();
    }
};

void run(Input input) {
    static std::unique_ptr<Harness> harnesses[8];
    if (input.size() < 2) return;
    const auto which = std::to_integer<unsigned>(input[0]);
    auto& harness = harnesses[which & 7];
    if (!harness) harness = std::make_unique<Harness>(shapes_of_channels()[which & 3], (which & 4) != 0);
    harness->run(input, (which & 0xf0) == 0xf0);
}

/// Answers of each kind.
std::vector<Bytes> seeds() {
    std::vector<Bytes> all;
    for (unsigned which = 0; which < 16; ++which)
        for (const unsigned cuts : {0u, 5u, 10u})
            for (const Frame last : {Frame::bye, Frame::leave, Frame::refuse}) {
                Bytes b{static_cast<std::byte>(which < 8 ? which : which | 0xf0), static_cast<std::byte>(cuts)};
                for (const auto& [type, until, received] : {std::tuple{Frame::ack, 0, 1}, {Frame::ping, 0, 9}, {Frame::ack, 1, 1}, {Frame::pong, 0, 9}}) {
                    Bytes frame(kHeader + 8);
                    Header{type, 0, 0, 8, static_cast<uint64_t>(until)}.encode(frame.data());
                    put(&frame[kHeader], static_cast<uint64_t>(received));
                    b.insert(b.end(), frame.begin(), frame.end());
                }
                Bytes frame(kHeader + (last == Frame::refuse ? 3 : 0), std::byte{'{'});
                Header{last, 0, 0, frame.size() - kHeader, 0}.encode(frame.data());
                b.insert(b.end(), frame.begin(), frame.end());
                all.push_back(std::move(b));
            }
    return all;
}

const bool known = targets().emplace("out_link", Target{run, seeds}).second;

}  // namespace

}  // namespace fuzz
