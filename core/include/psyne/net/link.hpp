// One side of a connection that carries one channel one way: bytes that arrive, bytes to be written. It opens no socket
// and waits for nothing. It is used by one thread at a time.
//
//    socket ─▶ buffer() … arrived(n) ─▶ frames ─▶ slots                  an incoming link (in_link.hpp)
//    socket ◀─ gather() … written(n) ◀─ frames ◀─ slots                  an outgoing one (source_link.hpp)
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <span>

#include <psyne/net/outbox.hpp>
#include <psyne/system/system.hpp>

namespace psyne::net {

class Link {
public:
    static constexpr size_t kScratch = 68 * 1024;  // any frame but DATA fits

    uint64_t bytes_in = 0, bytes_out = 0;  // of all connections

    Link() = default;
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;
    virtual ~Link() = default;

    /// Where the next bytes that arrive belong: perhaps a slot. Empty only while stuck().
    std::span<std::byte> buffer() {
        if (begin_ == end_) begin_ = end_ = 0;
        given_ = begin_ == 0 && end_ == 0 ? landing() : std::span<std::byte>{};
        in_place_ = !given_.empty();
        if (in_place_) return given_;
        std::memmove(scratch_.get(), scratch_.get() + begin_, end_ - begin_);
        end_ -= std::exchange(begin_, 0);
        return given_ = {scratch_.get() + end_, std::min(kScratch - end_, end_ == 0 ? wanted() : kScratch)};
    }
    /// `n` bytes are there. Publishes what is whole. Throws Errc::protocol: then the connection is over.
    void arrived(size_t n) {
        if (n > given_.size()) fail(Errc::invalid, std::to_string(n) + " bytes arrived in a buffer of " + std::to_string(given_.size()));
        bytes_in += n;
        given_ = {};
        if (deaf_) return;
        if (in_place_) landed(n);
        else end_ += n;
        parse();
    }
    /// The local ring has no room: read nothing until it has. Looks again, and goes on with what is there.
    bool stuck() {
        if (std::exchange(stuck_, false)) parse();
        return stuck_;
    }

    /// What is to be written now, up to `bytes` bytes: how many pieces. They stay as they are until they are written.
    size_t gather(iovec* out, size_t most, uint64_t bytes) {
        if (!closing_) plan(bytes);
        return outbox_.gather(out, most, bytes);
    }
    void written(size_t n) {
        outbox_.written(n, flown_);
        bytes_out += n;
    }
    /// Bytes that were gathered and are not written.
    uint64_t unwritten() const noexcept { return outbox_.bytes(); }

    /// Has a frame begun to arrive that is not whole, for lack of bytes?
    bool waits_for_rest() const noexcept { return !stuck_ && (midway() || begin_ != end_); }
    /// Asks for a sign of life: the peer sends `word` back.
    void ping(uint64_t word) noexcept { ping_ = word, pings_ = true; }
    /// The word that came back last.
    uint64_t pong() const noexcept { return ponged_; }
    /// The last words: `reason` is JSON, its end is cut off where it is too long. Close the connection once all is written.
    void refuse(std::string reason) {
        reason_ = std::move(reason);
        if (reason_.size() > kMostReason) reason_.resize(kMostReason);
        refuses_ = true;
    }
    /// What the peer said in its last words, until there is another connection; "": nothing. No byte behind them is taken.
    const std::string& refused() const noexcept { return refused_; }

    /// The connection is gone: frames that are not whole are forgotten.
    virtual void disconnected() noexcept {
        begin_ = end_ = 0;
        given_ = {};
        stuck_ = closing_ = pings_ = pongs_ = refuses_ = false;
        outbox_.clear();
    }

protected:
    Outbox outbox_;
    uint64_t flown_ = 0;  // sequences before it are written
    bool stuck_ = false;

    /// Where payload that is still to come belongs; empty: into the scratch.
    virtual std::span<std::byte> landing() { return {}; }
    virtual void landed(size_t) {}
    /// How much to read for what comes next.
    virtual size_t wanted() const noexcept { return kScratch; }
    /// Is the payload of a frame still to come? Then absorb() takes it.
    virtual bool midway() const noexcept { return false; }
    virtual size_t absorb(std::span<const std::byte>) { return 0; }
    /// Begins a DATA frame: how many bytes of its body it used; false when there must be more of them.
    virtual bool begin(const Header& h, std::span<const std::byte> body, size_t& used) = 0;
    /// A whole frame that is not one of those below.
    virtual void take(const Header& h, const std::byte* body) = 0;
    /// Adds frames to the outbox while it has fewer bytes.
    virtual void plan(uint64_t bytes) = 0;

    /// A frame of up to 8 bytes of body; false when the outbox has no room.
    bool add(Frame type, uint64_t sequence = 0, uint64_t length = 0, uint64_t body = 0) {
        if (!outbox_.fits(1, kHeader + length)) return false;
        std::byte bytes[8];
        put(bytes, body);
        std::byte* head = outbox_.head(kHeader + length);
        Header{type, 0, 0, length, sequence}.encode(head);
        std::memcpy(head + kHeader, bytes, length);
        return true;
    }
    /// Frames that both sides have.
    void plan_common() {
        if (pongs_ && add(Frame::pong, 0, 8, pong_)) pongs_ = false;
        if (pings_ && add(Frame::ping, 0, 8, ping_)) pings_ = false;
        if (!refuses_ || !outbox_.fits(2, kHeader)) return;
        Header{Frame::refuse, 0, 0, reason_.size(), 0}.encode(outbox_.head(kHeader));
        outbox_.add(reinterpret_cast<const std::byte*>(reason_.data()), reason_.size());
        closing_ = true;
    }
    /// Another connection.
    void begin_connection() noexcept {
        refused_.clear();
        deaf_ = false;
    }
    /// What comes in this connection is of no interest any more.
    void turn_deaf() noexcept {
        begin_ = end_ = 0;
        deaf_ = true;
    }
    bool pongs() const noexcept { return pongs_; }
    bool closing() const noexcept { return closing_; }

private:
    std::unique_ptr<std::byte[]> scratch_ = std::make_unique<std::byte[]>(kScratch);
    size_t begin_ = 0, end_ = 0;  // what is there and not used yet
    std::span<std::byte> given_;  // by buffer()
    bool in_place_ = false;       // given_ is a slot
    bool deaf_ = false;           // nothing is taken any more
    bool closing_ = false;        // nothing comes behind REFUSE
    bool pings_ = false, pongs_ = false, refuses_ = false;
    uint64_t ping_ = 0, pong_ = 0, ponged_ = 0;
    std::string reason_, refused_;

    void parse() {
        while (step()) {
        }
    }
    /// One frame, or what there is of its payload; false when there must come more first.
    bool step() {
        const std::span<const std::byte> there{scratch_.get() + begin_, end_ - begin_};
        if (midway()) {
            begin_ += absorb(there);
            return !midway();
        }
        if (there.size() < kHeader) return false;
        const Header h = Header::decode(there.data());
        if (h.type == Frame::data) {
            size_t used = 0;
            if (!begin(h, there.subspan(kHeader), used)) return false;
            begin_ += kHeader + used;
            return true;
        }
        if (h.type < Frame::refuse) violation(h.text() + " belongs to the handshake, which is over");
        if (h.length > there.size() - kHeader) return false;  // fits: its length was checked
        begin_ += kHeader + h.length;
        const std::byte* body = there.data() + kHeader;
        switch (h.type) {
            case Frame::ping: pong_ = get<uint64_t>(body), pongs_ = true; break;
            case Frame::pong: ponged_ = get<uint64_t>(body); break;
            case Frame::refuse:
                refused_.assign(reinterpret_cast<const char*>(body), h.length);
                if (refused_.empty()) refused_ = "{}";
                turn_deaf();
                return false;
            default: take(h, body);
        }
        return true;
    }
};

inline constexpr uint64_t kGather = 1 << 20;  // bytes for one system call
inline constexpr uint64_t kMostMoved = 4 << 20;  // bytes, after which others have their turn

/// Reads (if asked to) and writes until both would block, or for a while. The poll events to wait for; those of work that is
/// left come at once. Throws Errc::protocol, and Errc::system for a broken connection.
inline short transfer(Link& link, int fd, bool reads = true) {
#ifndef MSG_NOSIGNAL
    constexpr int kNoSignal = 0;  // the socket has SO_NOSIGPIPE
#else
    constexpr int kNoSignal = MSG_NOSIGNAL;
#endif
    iovec pieces[Outbox::kPieces];
    bool writes = true, blocked = false;
    const uint64_t begin = link.bytes_in + link.bytes_out;
    while ((reads || writes) && link.bytes_in + link.bytes_out - begin < kMostMoved) {
        if (writes) {
            msghdr message{};
            message.msg_iov = pieces;
            const size_t n = link.gather(pieces, Outbox::kPieces, kGather);
            message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(n);
            const ssize_t sent = n == 0 ? 0 : ::sendmsg(fd, &message, MSG_DONTWAIT | kNoSignal);
            blocked = sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
            if (sent < 0 && !blocked && errno != EINTR) sys::fail_errno("cannot send");
            if (sent > 0) link.written(static_cast<size_t>(sent));
            writes = n != 0 && !blocked;
        }
        if (reads && (reads = !link.stuck())) {
            const std::span<std::byte> to = link.buffer();
            const ssize_t got = ::recv(fd, to.data(), to.size(), MSG_DONTWAIT);
            if (got == 0) {
                errno = ECONNRESET;
                sys::fail_errno("the peer closed the connection");
            }
            const bool none = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
            if (got < 0 && !none && errno != EINTR) sys::fail_errno("cannot receive");
            if (got > 0) link.arrived(static_cast<size_t>(got)), writes = !blocked;  // perhaps there is an answer
            reads = got < 0 ? !none : static_cast<size_t>(got) == to.size();
        }
    }
    return static_cast<short>((link.stuck() ? 0 : POLLIN) | (blocked || writes ? POLLOUT : 0));
}

}  // namespace psyne::net
