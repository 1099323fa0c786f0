// A stranger sends to an incoming link. What it should have made of that is read here a second time, all at once and as
// the format is written down; messages, errors and acknowledgements must be the same, wherever the reads cut the bytes.
#include <optional>

#include <psyne/net/in_link.hpp>

#include "channels.hpp"

namespace fuzz {

namespace {

using namespace psyne;
using namespace psyne::net;

constexpr uint64_t kMemory = 192 * 1024;  // that a link may allocate while it reads: the last words of a peer

// ---- what the bytes mean ------------------------------------------------------------------------------------------

struct Message {
    uint64_t variant, missed, stamp;
    size_t at;              // of the payload of its frame
    uint64_t index, count;  // in its frame
};

struct Meaning {
    std::vector<Message> messages;
    size_t certain = 0;      // messages of whole frames
    bool bad = false;        // the connection ends with a violation
    bool perhaps = false;    // that depends: on the rest of a frame, or on whether the peer's BYE answers ours
    bool refused = false, ended = false;
    std::optional<uint64_t> pinged;

    /// Reads all of `s`. Sequences count from `base` on: those in the frames are raised by it.
    void read(std::span<std::byte> s, uint64_t base, const Channel& c) {
        messages.clear();
        certain = 0;
        bad = perhaps = refused = ended = false;
        pinged.reset();
        uint64_t next = base;
        size_t at = 0;
        while (s.size() - at >= kHeader && frame(s, at, base, next, c)) {
        }
    }

private:
    bool violated() noexcept { return bad = true, false; }

    NOT_COUNTED bool frame(std::span<std::byte> s, size_t& at, uint64_t base, uint64_t& next, const Channel& c) {
        std::byte* const h = &s[at];
        const size_t there = s.size() - at - kHeader;
        const uint32_t told = get<uint32_t>(h + 12);
        put(h + 12, uint32_t{0});
        const uint32_t sum = crc32c(h, kHeader);
        put(h + 12, told);
        const auto type = get<uint8_t>(h + 5);
        const auto flags = get<uint16_t>(h + 6);
        const uint64_t count = get<uint32_t>(h + 8), length = get<uint64_t>(h + 16);
        auto sequence = get<uint64_t>(h + 24);
        if (std::memcmp(h, "PSYN", 4) != 0 || h[4] != std::byte{1} || sum != told) return violated();
        if (type == 16 || type == 20) {
            put(h + 24, sequence += base);
            put(h + 12, uint32_t{0});
            put(h + 12, crc32c(h, kHeader));
        }
        if (type == 16) {
            if (count < 1 || count > kMostMessages || flags > 7 || length < kDataHead) return violated();
            return data(s, at, flags, count, length, sequence, next, c);
        }
        uint64_t least = 0, most = 0;
        if (type == 1 || type == 2) most = 1024;
        else if (type == 3) least = most = 32;
        else if (type == 4 || type == 5) most = 1 << 20;
        else if (type == 6) most = 65536;
        else if (type >= 17 && type <= 19) least = most = 8;
        else if (type == 20) least = most = 1;
        else if (type != 21 && type != 22) return violated();
        if (count != 0 || flags != 0 || length < least || length > most || (type != 17 && type != 20 && sequence != 0)) return violated();
        if (length > there) return perhaps = true, false;
        at += kHeader + length;
        const std::byte* body = h + kHeader;
        if (type == 6) return refused = true, false;
        if (type == 18) return pinged = get<uint64_t>(body), true;
        if (type == 19) return true;
        if (type == 21 && ended) return perhaps = true;
        if (type != 20 || ended || sequence != next || body[0] > std::byte{1}) return violated();
        return ended = true;
    }

    NOT_COUNTED bool data(std::span<std::byte> s, size_t& at, uint16_t flags, uint64_t count, uint64_t length, uint64_t sequence, uint64_t& next,
              const Channel& c) {
        if (ended || length > 64ull << 20 || sequence != next) return violated();
        const std::byte* const body = &s[at] + kHeader;
        const size_t there = s.size() - at - kHeader;
        if (there < kDataHead) return perhaps = true, false;
        const auto variant = get<uint64_t>(body), size = get<uint64_t>(body + 16);
        const MessageShape* shape = nullptr;
        for (const MessageShape& one : c.shapes)
            if (one.variant == variant) shape = &one;
        const bool stamped = (flags & 1) != 0, summed = (flags & 2) != 0, columns = (flags & 4) != 0;
        const uint64_t stamps = stamped ? 8 * count : 0, dims = shape && shape->shaped ? 16 : 0;
        if (!shape || summed != c.checksum || columns != !shape->columns.empty()) return violated();
        if (dims != 0 ? count != 1 || size < dims || size > dims + shape->bytes : size != shape->bytes) return violated();
        if (length != kDataHead + stamps + count * size || ((summed || columns) && count > c.capacity / 2)) return violated();
        const size_t head = kDataHead + stamps + dims;
        if (there < head) return perhaps = true, false;
        if (dims != 0) {
            uint64_t n[2];
            std::memcpy(n, body + kDataHead + stamps, dims);
            const bool small = n[0] <= 1 << 20 && n[1] <= 1 << 20;
            const bool empty = (n[0] == 0 && n[1] <= 1ull << 46) || (n[1] == 0 && n[0] <= 1ull << 46);
            if (!(small || empty) || (empty ? 0 : n[0] * n[1] * 4) != length - head) return violated();
        }
        const bool whole = there >= length;
        const uint64_t n = whole ? count : summed || columns || dims != 0 ? 0 : (there - head) / size;
        if (whole && summed && crc32c(body + kDataHead, length - kDataHead) != get<uint32_t>(body + 12)) return violated();
        for (uint64_t i = 0; i < n; ++i) {
            uint64_t stamp = 0;
            if (stamped) std::memcpy(&stamp, body + kDataHead + 8 * i, 8);
            messages.push_back({variant, i == 0 ? get<uint32_t>(body + 8) : 0, stamp, at + kHeader + kDataHead + stamps, i, count});
        }
        if (!whole) return false;
        certain = messages.size();
        next += count;
        at += kHeader + length;
        return true;
    }
};

// ---- a link -------------------------------------------------------------------------------------------------------

class Harness {
public:
    Harness(std::vector<MessageShape> shapes, bool checksum) : c_(std::move(shapes), checksum) { begin_lane(); }

    void run(Input input, bool lazy, bool leaves) {
        const Cuts cuts(input[1]);
        stream_.assign(input.begin() + kInputPrefix, input.end());
        base_ = link_->next();
        taken_ = 0;
        answers_.clear();
        meaning_.read(stream_, base_, c_);
        link_->connected();

        const uint64_t before = memory_peak() = memory_live();
        const bool threw = feed(stream_, cuts, lazy, leaves);
        const uint64_t grown = memory_peak() - before;
        if (grown > kMemory + answers_.capacity()) wrong("the link allocated " + std::to_string(grown) + " bytes");

        take();
        if (!left_) {
            if (threw != meaning_.bad && !(threw && meaning_.perhaps)) wrong(threw ? "refused: " + reason_ : "what must not be was not refused");
            require(taken_ >= meaning_.certain, "messages that came are missing");
            require(link_->ended() == meaning_.ended, "an END was not seen");
            require(threw || !link_->refused().empty() == meaning_.refused, "last words were not heard");
        }
        require_equal(link_->next(), base_ + taken_, "the sequence that is due");
        if (!threw && !link_->stuck()) answers();
        stop_counting();
        recover();
    }

private:
    static constexpr size_t kInputPrefix = 2;

    Channel c_;
    std::unique_ptr<InLink> link_;
    Meaning meaning_;
    Bytes stream_, answers_, good_;
    uint64_t base_ = 0;    // where the sequences of this connection begin
    size_t taken_ = 0;     // messages of this connection
    bool left_ = false;
    std::string reason_;

    void begin_lane() {
        link_.reset();
        if (c_.tx->position() != 0) c_.close_sender(), c_.open_sender();
        link_ = std::make_unique<InLink>(*c_.tx, c_.shapes, c_.checksum);
        left_ = false;
    }

    /// True: the link called it a violation.
    bool feed(std::span<std::byte> bytes, Cuts cuts, bool lazy, bool leaves) {
        size_t leave_at = leaves ? bytes.size() / 2 : bytes.size() + 1;
        try {
            for (size_t at = 0; at < bytes.size() && link_->refused().empty();) {
                if (link_->stuck()) {
                    const size_t had = taken_;
                    take();
                    require(taken_ != had || !link_->stuck(), "it is stuck in an empty ring");
                    continue;
                }
                const std::span<std::byte> to = link_->buffer();
                if (to.empty()) {
                    require(link_->stuck(), "no buffer, and not stuck");
                    take();
                    continue;
                }
                const size_t n = cuts.next(std::min(to.size(), bytes.size() - at));
                std::memcpy(to.data(), &bytes[at], n);
                link_->arrived(n);
                at += n;
                if (!lazy || cuts.one_in(8)) take();
                if (link_->owes_bye() && cuts.one_in(2)) write();
                if (at >= leave_at) {
                    take();
                    link_->leave();
                    leave_at = bytes.size() + 1;
                    left_ = true;
                }
            }
            while (link_->stuck()) {
                const size_t had = taken_;
                take();
                require(taken_ != had || !link_->stuck(), "it is stuck in an empty ring");
            }
        } catch (const Error& e) {
            if (e.code != Errc::protocol) wrong(std::string("not a violation, but: ") + e.what());
            reason_ = e.what();
            return true;
        }
        return false;
    }

    void take() {
        Taken t;
        while (c_.rx->try_take(c_.capacity, t)) {
            check(t);
            c_.rx->end(t, false);
        }
    }
    NOT_COUNTED void check(Taken t) {
        require(!left_, "a message came behind LEAVE");
        require(taken_ + t.count <= meaning_.messages.size(), "a message came that is not there");
        for (uint64_t n = t.count; n != 0; --n) {
            const Message& m = meaning_.messages[taken_];
            require_equal(t.position(), base_ + taken_, "the position of a message");
            require_equal(t.variant(), m.variant, "its type");
            require_equal(Receiver::missed(t), m.missed, "messages before it that are missed");
            require_equal(t.remote(), m.stamp, "its time");
            require(same(t, m), "its payload is another");
            ++taken_, ++t.slot, t.data += t.lane->slab.stride;
        }
    }

    NOT_COUNTED bool same(const Taken& t, const Message& m) const {
        const MessageShape& shape = c_.shapes[m.variant & 0xffff];
        const std::byte* from = &stream_[0] + m.at;
        if (shape.shaped) {
            const std::byte* const dims = from;
            uint64_t n[2];
            std::memcpy(n, dims, 16);
            return std::memcmp(t.data + t.room() - 16, dims, 16) == 0 && std::memcmp(t.data, from + 16, n[0] * n[1] * 4) == 0;
        }
        if (shape.columns.empty()) return std::memcmp(t.data, from + m.index * shape.bytes, shape.bytes) == 0;
        for (size_t f = 0; f < shape.columns.size(); ++f) {
            const uint64_t bytes = shape.columns[f].bytes;
            if (std::memcmp(shape.column(t.lane->slab, f, t.slot), from + m.index * bytes, bytes) != 0) return false;
            from += m.count * bytes;
        }
        return true;
    }

    void write() {
        iovec pieces[8];
        for (size_t n; (n = link_->gather(pieces, std::size(pieces), 1 << 20)) != 0;)
            for (size_t i = 0; i < n; ++i) {
                const auto* data = static_cast<const std::byte*>(pieces[i].iov_base);
                answers_.insert(answers_.end(), data, data + pieces[i].iov_len);
                link_->written(pieces[i].iov_len);
            }
    }
    /// What the link wrote: everything was received and let go, and a PING has its answer.
    void answers() {
        const uint64_t due = link_->next();
        link_->acknowledge();
        write();
        bool acknowledged = false, understood = false;
        uint64_t let_go = 0, received = 0;
        std::optional<uint64_t> ponged;
        for (size_t at = 0; at < answers_.size();) {
            const Header h = Header::decode(&answers_[at]);
            const std::byte* body = &answers_[at] + kHeader;
            if (h.type == Frame::ack) {
                require(h.sequence >= std::exchange(let_go, h.sequence) && h.sequence <= due, "an ACK of what was let go");
                require(get<uint64_t>(body) >= std::exchange(received, get<uint64_t>(body)) && received <= due, "an ACK of what was received");
                acknowledged = true;
            } else if (h.type == Frame::pong) {
                require(std::exchange(acknowledged, false), "a PONG without an ACK before it");
                ponged = get<uint64_t>(body);
            } else if (h.type == Frame::bye) {
                understood = true;
            } else {
                require(h.type == Frame::leave && left_, "an answer of another kind");
            }
            at += kHeader + h.length;
        }
        require(let_go == due && received == due, "not all was acknowledged");
        require(left_ || ponged == meaning_.pinged, "a PING has no answer, or another one");
        require(left_ || understood == meaning_.ended, "an END has no answer");
        if (!meaning_.ended || left_ || meaning_.refused || link_->waits_for_rest()) return;
        if (!link_->parted()) answer_bye();
        require(link_->finished(), "everything came, and it is not finished");
    }
    void answer_bye() {
        require(!link_->finished(), "it is finished before the peer knows that END was understood");
        const std::span<std::byte> to = link_->buffer();
        Header{Frame::bye}.encode(to.data());
        link_->arrived(kHeader);
    }

    /// Another connection of a good peer goes on behind what was taken, up to the end of a lap; then all is as it was at first.
    void recover() {
        link_->disconnected();
        const size_t had = taken_;
        take();
        require_equal(taken_, had, "a lost connection published messages");
        if (link_->ended() || left_) begin_lane();
        link_->connected();
        answers_.clear();
        const MessageShape& shape = c_.shapes[0];
        for (uint64_t left = c_.capacity - link_->next() % c_.capacity; left != 0;) {
            const uint64_t n = std::min(left, c_.capacity / 2);
            const uint16_t flags = static_cast<uint16_t>((c_.checksum ? kChecksum : 0) | (shape.columns.empty() ? 0 : kColumns));
            good_.assign(kHeader + kDataHead + n * shape.bytes, std::byte{0x5a});
            Header{Frame::data, flags, static_cast<uint32_t>(n), good_.size() - kHeader, 0}.encode(good_.data());
            const std::byte* payload = &good_[kHeader + kDataHead];
            DataHead{shape.variant, 0, c_.checksum ? crc32c(payload, n * shape.bytes) : 0, shape.bytes}.encode(&good_[kHeader]);
            base_ = link_->next(), taken_ = 0;
            std::swap(stream_, good_);
            meaning_.read(stream_, base_, c_);
            require(!feed(stream_, Cuts(std::byte{0}), false, false), "a good peer was refused");
            take();
            require_equal(taken_, n, "messages of a good peer");
            left -= n;
        }
        answers();
        link_->disconnected();
    }
};

void run(Input input) {
    static std::unique_ptr<Harness> harnesses[8];
    if (input.size() < 2) return;
    const auto which = std::to_integer<unsigned>(input[0]);
    auto& harness = harnesses[which & 7];
    if (!harness) harness = std::make_unique<Harness>(shapes_of_channels()[which & 3], (which & 4) != 0);
    harness->run(input, (which & 8) != 0, (which & 0xf0) == 0xf0);
}

// ---- to begin with --------------------------------------------------------------------------------------------------

void add(Bytes& to, const Header& h, const Bytes& body = {}) {
    Header with = h;
    with.length = body.size();
    to.resize(to.size() + kHeader);
    with.encode(&to[to.size() - kHeader]);
    to.insert(to.end(), body.begin(), body.end());
}

Bytes data_of(const Channel& c, uint64_t count, uint64_t variant, uint64_t size, bool stamps, const std::vector<uint64_t>& dims = {}) {
    Bytes body(kDataHead + (stamps ? 8 * count : 0) + count * size, std::byte{7});
    if (!dims.empty()) std::memcpy(&body[kDataHead + (stamps ? 8 : 0)], dims.data(), 8 * dims.size());
    DataHead{variant, 3, c.checksum ? crc32c(&body[kDataHead], body.size() - kDataHead) : 0, size}.encode(body.data());
    return body;
}

/// A session of each kind.
std::vector<Bytes> seeds() {
    std::vector<Bytes> all;
    const auto kinds = shapes_of_channels();
    for (unsigned which = 0; which < 16; ++which)
        for (const unsigned cuts : {0u, 5u, 10u}) {
            const Channel c(kinds[which & 3], (which & 4) != 0);
            const MessageShape& shape = c.shapes[0];
            const uint16_t common = static_cast<uint16_t>((c.checksum ? kChecksum : 0) | (shape.columns.empty() ? 0 : kColumns));
            Bytes b{static_cast<std::byte>(which), static_cast<std::byte>(cuts)};
            add(b, {Frame::data, common, 2, 0, 0}, data_of(c, 2, 0, shape.bytes, false));
            add(b, {Frame::data, static_cast<uint16_t>(common | kStamps), 1, 0, 2}, data_of(c, 1, 0, shape.bytes, true));
            uint64_t next = 3;
            if (c.shapes.size() > 1) add(b, {Frame::data, common, 1, 0, next++}, data_of(c, 1, kShaped, 16 + 24, false, {2, 3}));
            add(b, {Frame::ping}, Bytes(8, std::byte{1}));
            add(b, {Frame::pong}, Bytes(8, std::byte{2}));
            Bytes refused = b;
            add(refused, {Frame::refuse}, Bytes(5, std::byte{'{'}));
            add(b, {Frame::end, 0, 0, 0, next}, Bytes(1));
            all.push_back(std::move(b));
            all.push_back(std::move(refused));
        }
    return all;
}

const bool known = targets().emplace("in_link", Target{run, seeds}).second;

}  // namespace

}  // namespace fuzz
