// A connection that could go on for ever leaves others their turn, and what goes wrong inside one ends that one alone.
#include "carried.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

constexpr uint64_t kTireless = 64 << 20;  // bytes after which one that nobody stops gives up
constexpr uint64_t kLooks = 1'000'000;    // the same, of looks into the channel

/// Two ends of a socket, of which the test has the far one.
struct Sockets {
    sys::Fd near, far;
    Sockets() {
        int fd[2];
        CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
        near = sys::Fd(fd[0]), far = sys::Fd(fd[1]);
    }
};

/// Writes and reads without an end: whenever it is asked, the far end of its socket has just done its part.
class Tireless : public Link {
public:
    bool writes = false, reads = false, no_memory = false;
    explicit Tireless(int far) : far_(far), bytes_(16 * 1024) {}

private:
    int far_;
    Bytes bytes_;

    bool goes_on() const { return bytes_in + bytes_out < kTireless; }
    void plan(uint64_t) override {
        if (no_memory) throw std::bad_alloc();
        if (!writes || !goes_on() || !outbox_.empty()) return;
        Bytes there(bytes_.size());
        while (::recv(far_, there.data(), there.size(), MSG_DONTWAIT) > 0) {
        }
        outbox_.add(bytes_.data(), bytes_.size());
    }
    std::span<std::byte> landing() override {
        if (reads && goes_on()) CHECK(::send(far_, bytes_.data(), bytes_.size(), MSG_DONTWAIT) > 0);
        return bytes_;
    }
    bool begin(const Header&, std::span<const std::byte>, size_t&) override { return false; }
    void take(const Header&, const std::byte*) override {}
};

/// A channel in which there is always something new.
class Lively : public Side {
public:
    uint64_t looks = 0;
    Tireless tireless;
    explicit Lively(int far) : tireless(far) {}

    Link& link() noexcept override { return tireless; }
    bool incoming() const noexcept override { return false; }
    void connected(uint64_t, uint64_t) override {}
    void restart() override {}
    const char* over() const noexcept override { return nullptr; }
    bool parted() const noexcept override { return false; }
    bool finished() const noexcept override { return false; }
    bool waits() noexcept override { return true; }
    bool ready() override { return ++looks < kLooks; }
    int arm() override { return -1; }
    void disarm() noexcept override {}
    bool look_after_others() override { return false; }
};

}  // namespace

TESTS(turn_test) {
    return check::run({
        {"a connection whose channel always has more leaves others their turn, and comes back at once",
         [] {
             for (const uint64_t linger : {0, 1'000'000}) {
                 Sockets sockets;
                 auto side = std::make_unique<Lively>(sockets.far.get());
                 Lively& lively = *side;
                 Connection c(std::move(side), nullptr);
                 c.connect(std::move(sockets.near), 0, 1);
                 c.drive(linger);
                 CHECK(lively.looks < kLooks);
                 CHECK(c.due() <= sys::now_ns());
             }
         }},
        {"a connection that always has more to write or to read leaves others their turn, and comes back at once",
         [] {
             for (const bool writes : {true, false}) {
                 Sockets sockets;
                 Tireless tireless(sockets.far.get());
                 tireless.writes = writes, tireless.reads = !writes;
                 const short events = transfer(tireless, sockets.near.get());
                 CHECK(tireless.bytes_in + tireless.bytes_out < 2 * kMostMoved);
                 CHECK((events & (writes ? POLLOUT : POLLIN)) != 0);
             }
         }},
        {"a connection for which there is no memory fails, and nothing else does",
         [] {
             Sockets sockets;
             auto side = std::make_unique<Lively>(sockets.far.get());
             Tireless& tireless = side->tireless;
             Connection c(std::move(side), nullptr);
             c.connect(std::move(sockets.near), 0, 1);
             tireless.no_memory = true;
             c.drive();
             CHECK(c.failed());
             CHECK_EQ(c.failure_code(), Errc::system);
             CHECK(c.take_news());
             std::byte one;
             CHECK_EQ(::recv(sockets.far.get(), &one, 1, 0), 0);  // its socket is closed
         }},
    });
}
