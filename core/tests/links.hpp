// Two channels in one process and a link between them, whose bytes a test carries: in pieces of any size.
#pragma once

#include "payload.hpp"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <psyne/net/in_link.hpp>
#include <psyne/net/out_link.hpp>
#include <psyne/net/tap_link.hpp>

namespace psyne::test {

using namespace psyne::net;
using Bytes = std::vector<std::byte>;

// ---- types, and messages whose bytes say which message they belong to -----------------------------------------------

inline MessageShape rows(uint64_t bytes, uint64_t variant = 0) {
    MessageShape s;
    s.bytes = bytes, s.variant = variant;
    return s;
}
inline MessageShape columns(const std::vector<uint64_t>& fields) {
    MessageShape s;
    for (uint64_t bytes : fields) s.columns.push_back({s.bytes, bytes}), s.bytes += bytes;
    return s;
}
inline MessageShape shaped(uint64_t most, uint32_t ndim, uint64_t element, uint64_t variant = 0) {
    MessageShape s;
    s.shaped = true;
    s.bytes = most, s.ndim = ndim, s.element = element, s.variant = variant;
    return s;
}
/// Bytes of a slot that has room for any.
inline uint64_t room_of(const MessageShape& s) { return s.shaped ? round_up(s.bytes, 8) + s.dims_bytes() : s.bytes; }

inline std::byte byte_of(uint64_t number, uint64_t i) {
    return static_cast<std::byte>(data_word(7, number, i / 8) >> 8 * (i % 8));
}
/// The dimensions of a shaped message.
inline std::array<uint64_t, MessageShape::kMostDims> dims_of(const MessageShape& s, uint64_t number) {
    std::array<uint64_t, MessageShape::kMostDims> dims{};
    uint64_t left = s.bytes / s.element;
    for (uint32_t i = 0; i < s.ndim; ++i) {
        dims[i] = i + 1 < s.ndim ? 1 + number % 3 : number * 31 % (left + 1);
        left /= std::max<uint64_t>(dims[i], 1);
    }
    return dims;
}
/// Calls `f(memory, bytes, first)` for each piece of a message.
template <class F>
void each_piece(const MessageShape& s, const Slab& slab, uint64_t slot, std::byte* data, uint64_t number, F&& f) {
    uint64_t bytes = s.bytes;
    for (size_t i = 0; i < s.columns.size(); ++i) f(s.column(slab, i, slot), s.columns[i].bytes, s.columns[i].offset);
    if (!s.columns.empty()) return;
    if (s.shaped) CHECK(s.elements(dims_of(s, number).data(), room_of(s), bytes));
    f(data, bytes, uint64_t{0});
}
inline void write_message(const MessageShape& s, const Loan& loan, uint64_t i, uint64_t number) {
    const Slab& slab = loan.ring->slab;
    std::byte* data = loan.data + i * slab.stride;
    each_piece(s, slab, loan.slot + i, data, number, [&](std::byte* to, uint64_t n, uint64_t first) {
        for (uint64_t k = 0; k < n; ++k) to[k] = byte_of(number, first + k);
    });
    if (s.shaped) std::memcpy(s.dims_at(data, loan.room), dims_of(s, number).data(), s.dims_bytes());
}
inline void check_message(const MessageShape& s, const Taken& t, uint64_t i, uint64_t number) {
    const Slab& slab = t.lane->slab;
    std::byte* data = t.data + i * slab.stride;
    CHECK_EQ(t.variant(), s.variant);
    if (s.shaped) CHECK_EQ(std::memcmp(s.dims_at(data, t.room()), dims_of(s, number).data(), s.dims_bytes()), 0);
    each_piece(s, slab, t.slot + i, data, number, [&](const std::byte* from, uint64_t n, uint64_t first) {
        for (uint64_t k = 0; k < n; ++k)
            if (from[k] != byte_of(number, first + k))
                check::fail("byte " + std::to_string(first + k) + " of message " + std::to_string(number) + " is another's");
    });
}

// ---- channels -------------------------------------------------------------------------------------------------------

struct Kind {
    std::vector<MessageShape> shapes = {rows(64)};
    uint64_t capacity = 8, far_capacity = 8;
    bool checksum = false, stamps = false, drops = false;
    Pattern pattern = Pattern::mpsc;

    uint64_t room() const {
        uint64_t most = 0;
        for (const MessageShape& s : shapes) most = std::max(most, room_of(s));
        return most;
    }
    uint64_t stride() const { return payload_stride(room(), 8, 0); }
    const MessageShape& shape(uint64_t number) const { return shapes[number / 3 % shapes.size()]; }
    ChannelSpec spec() const { return test::spec(pattern, {{"main"}}, room()); }
    std::unique_ptr<Sender> sender(const Home& home, const std::string& name, uint64_t slots, bool far) const {
        SideColumns columns;
        columns.dropped = drops, columns.variants = shapes.size() > 1, columns.stamps = stamps, columns.remote = far;
        return open_sender(home.directory, name, spec(), {stride(), slots, columns, Spinner::Mode::block}, "test");
    }
};

/// The channel of a far process, and what writes to it.
struct Far {
    std::unique_ptr<Sender> tx;
    std::unique_ptr<Receiver> rx;
    InLink in;
    Far(const Home& home, const Kind& k)
        : tx(k.sender(home, "far", k.far_capacity, true)), rx(open_receiver(home.directory, "far", "", Spinner::Mode::block, "test")),
          in(*tx, k.shapes, k.checksum) {}
};

/// Sends the message `number`; false while there is no room.
inline bool send(const Kind& k, Sender& tx, uint64_t number, uint64_t count = 1) {
    Loan loan;
    if (!tx.try_loan(count, loan)) return false;
    for (uint64_t i = 0; i < count; ++i) write_message(k.shape(number), loan, i, number + i);
    loan.variant = k.shape(number).variant;
    tx.commit(loan, count);
    return true;
}
/// Checks that `number` is the next message, and ends it.
inline void check_next(const Kind& k, Receiver& rx, uint64_t number) {
    const Taken t = take(rx);
    check_message(k.shape(number), t, 0, number);
    rx.end(t, false);
}

// ---- bytes ----------------------------------------------------------------------------------------------------------

/// Takes up to `most` bytes that a link wants to write, behind `to`. How many.
inline size_t pour(Link& from, Bytes& to, size_t most = 1 << 20) {
    iovec pieces[Outbox::kPieces];
    const size_t n = from.gather(pieces, Outbox::kPieces, most);
    size_t sum = 0;
    for (size_t i = 0; i < n; ++i) {
        const size_t k = std::min(pieces[i].iov_len, most - sum);
        const auto* data = static_cast<const std::byte*>(pieces[i].iov_base);
        to.insert(to.end(), data, data + k);
        sum += k;
    }
    from.written(sum);
    return sum;
}
inline Bytes pour_all(Link& from) {
    Bytes all;
    for (int turns = 0; pour(from, all) != 0;) CHECK(++turns < 10'000);  // it has an end
    return all;
}
/// Gives up to `most` of the bytes at `from` on to a link. How many it took.
inline size_t drink(Link& to, const std::byte* from, size_t there, size_t most = ~0ull) {
    if (there == 0 || to.stuck()) return 0;
    const std::span<std::byte> room = to.buffer();
    const size_t n = std::min({room.size(), there, most});
    std::memcpy(room.data(), from, n);
    to.arrived(n);
    return n;
}
/// All of them.
inline void drink_all(Link& to, const Bytes& from) {
    for (size_t at = 0; at < from.size();) {
        const size_t n = drink(to, from.data() + at, from.size() - at);
        CHECK(n != 0);
        at += n;
    }
}
/// A frame that nobody wrote.
inline Bytes frame(const Header& h, uint64_t body = 0) {
    Bytes b(kHeader + h.length);
    h.encode(b.data());
    for (uint64_t i = 0; i < h.length; ++i) b[kHeader + i] = static_cast<std::byte>(body >> 8 * (i % 8));
    return b;
}
/// What so many bytes are, frame by frame.
inline std::vector<Header> headers(const Bytes& bytes) {
    std::vector<Header> all;
    for (size_t at = 0; at < bytes.size(); at += kHeader + all.back().length) all.push_back(Header::decode(bytes.data() + at));
    return all;
}
/// All that one wants to tell the other, and back, until both are silent.
inline void talk(Link& a, Link& b) {
    for (int turns = 0;; CHECK(++turns < 10'000)) {
        const Bytes there = pour_all(a);
        drink_all(b, there);
        const Bytes back = pour_all(b);
        drink_all(a, back);
        if (there.empty() && back.empty()) return;
    }
}

/// Two ends of a connection, by a real socket.
struct SocketPair {
    int fd[2];
    SocketPair() { CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0); }
    ~SocketPair() { close(0), close(1); }
    void close(int i) {
        if (fd[i] >= 0) ::close(std::exchange(fd[i], -1));
    }
    int unread(int i) const {
        int n = 0;
        CHECK_EQ(::ioctl(fd[i], FIONREAD, &n), 0);
        return n;
    }
    void send(int i, const Bytes& b) const { CHECK_EQ(::send(fd[i], b.data(), b.size(), MSG_DONTWAIT), static_cast<ssize_t>(b.size())); }
};

/// A connection that carries bytes in pieces of any size, later.
class Road {
public:
    Bytes bytes;
    size_t at = 0;
    void pour(Link& from, Random& random, uint64_t most) { test::pour(from, bytes, 1 + pick(random, most)); }
    void drink(Link& to, Random& random, uint64_t most) {
        at += test::drink(to, bytes.data() + at, bytes.size() - at, 1 + pick(random, most));
        if (at == bytes.size()) clear();
    }
    void clear() { bytes.clear(), at = 0; }
};

// ---- both sides -----------------------------------------------------------------------------------------------------

/// A sender's channel, and the outgoing link that is the member of its stage.
struct Near {
    std::unique_ptr<Sender> tx;
    std::unique_ptr<Receiver> rx;
    OutLink out;
    Near(const Home& home, const Kind& k)
        : tx(k.sender(home, "near", k.capacity, false)), rx(open_receiver(home.directory, "near", "", Spinner::Mode::block, "test")),
          out(*rx, k.shapes, k.checksum) {}
};

struct Joined {
    Home home;
    Kind kind;
    Near near;
    Far far;
    explicit Joined(Kind k = {}) : kind(std::move(k)), near(home, kind), far(home, kind) { connect(); }
    void connect() {
        far.in.connected();
        near.out.connected(far.in.next(), far.in.capacity());
    }
    void disconnect() {
        near.out.disconnected();
        far.in.disconnected();
    }
    void talk() { test::talk(near.out, far.in); }
    void put(uint64_t number, uint64_t count = 1) { CHECK(send(kind, *near.tx, number, count)); }
    void check_got(uint64_t number) { check_next(kind, *far.rx, number); }
};

}  // namespace psyne::test
