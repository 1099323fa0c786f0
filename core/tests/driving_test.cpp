// Who drives a connection, and for how long: nobody forgets one, and what goes wrong inside one ends that one alone.
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

constexpr uint64_t kLarge = 4 << 20;  // bytes that no socket takes at once

/// A connection whose far end the test has.
struct Stranger {
    Pair road;
    Sockets sockets;
    Connection& c;
    explicit Stranger(bool incoming, Kind kind = {}) : road(std::move(kind)), c(incoming ? *road.wire.in : *road.wire.out) {
        road.wire.disconnect();
    }
    void connect(const Bytes& rest = {}) {
        const std::lock_guard guard(c.lock);
        c.connect(std::move(sockets.near), 0, 8, {reinterpret_cast<const char*>(rest.data()), rest.size()});
    }
    void say(const Bytes& bytes) {
        CHECK_EQ(::send(sockets.far.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
        const std::lock_guard guard(c.lock);
        c.drive();
    }
    /// What the sending side says of `count` messages.
    Bytes messages(uint64_t count) {
        const std::lock_guard guard(road.wire.out->lock);
        road.wire.out->connect({}, 0, count);
        for (uint64_t n = 0; n < count; ++n) CHECK(send(road.near.kind, *road.tx, n));
        return pour_all(road.wire.out->link());
    }
};

/// All that was sent is let go, and the connection sleeps until it is kicked.
void rest(Pair& road) {
    CHECK_EQ(road.tx->drain(kForever, keep_going), Wait::ready);
    while (!road.a.gateway->asleep()) ::sched_yield();
}

}  // namespace

TESTS(driving_test) {
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
        {"a connection that sleeps hears that the last sender has closed",
         [] {
             Pair road;
             road.send(0);
             road.check(0);
             rest(road);
             goodbye(road.tx);
             road.a.gateway->wake();
             for (bool over = false; !over; ::sched_yield()) {
                 const std::lock_guard guard(road.wire.out->lock);
                 over = road.wire.out->over() != nullptr;
             }
         }},
        {"what whoever sends cannot write at once the pump writes",
         [] {
             Pair road({.shapes = {rows(4 << 20)}, .capacity = 2, .far_capacity = 2});
             for (uint64_t n = 0; n < 3; ++n) {
                 road.send(n);
                 road.check(n);
                 rest(road);
             }
         }},
        {"a receiver that waits for ever tells of a connection that breaks",
         [] {
             Pair road;
             std::thread waits = in_thread([&] { road.check(0); });
             while (!road.wire.in->owned()) ::sched_yield();
             const uint64_t before = road.b.told.load();
             road.wire.disconnect();
             road.connect();
             {
                 const std::lock_guard guard(road.wire.out->lock);
                 road.wire.out->disconnect();
             }
             while (road.b.told.load() == before) ::sched_yield();
             road.connect();
             road.send(0);
             waits.join();
         }},
        {"a connection that is taken from a receiver that waits, and comes back, is driven by the pump",
         [] {
             Pair road;
             std::thread waits = in_thread([&] { road.check(0); });
             while (!road.wire.in->owned()) ::sched_yield();
             road.b.gateway->remove(*road.wire.in);
             road.b.gateway->wake();
             while (road.wire.in->owned()) ::sched_yield();
             CHECK(send(road.far.kind, *road.far.sender(), 0));  // somebody else ends the wait
             road.b.gateway->wake();
             waits.join();
             road.b.gateway->add(road.wire.in);
             road.send(1);
             while (road.rx->there(1) == 0) ::sched_yield();
         }},
        {"a receiver that does not wait looks at its connections itself",
         [] {
             Pair road;
             road.wire.in->own();  // so the pump does not
             road.b.pump->wake();
             road.send(0);
             Taken t;
             while (road.b.gateway->receive(*road.rx, 1, t, 0, keep_going) != Wait::ready) ::sched_yield();
             check_message(road.far.kind.shape(0), t, 0, 0);
             road.rx->end(t, false);
         }},
        {"a receiver without a pump says what it let go before it leaves",
         [] {
             Pair road({.capacity = 4, .far_capacity = 4});
             Gateway loop(nullptr);
             road.b.gateway->remove(*road.wire.in);
             loop.add(road.wire.in);
             loop.hush();
             for (uint64_t n = 0; n < 4; ++n) road.send(n);
             while (road.rx->there(4) < 4) {
                 const std::lock_guard guard(road.wire.in->lock);
                 road.wire.in->drive();
             }
             for (uint64_t n = 0; n < 4; ++n) check_next(road.far.kind, *road.rx, n);
             CHECK(!readable(loop.fileno(), 0));
             loop.leave();
             CHECK(readable(loop.fileno(), 0));  // the loop looks by when it has to, too
             while (road.tx->occupied() != 0) ::sched_yield();
             loop.remove(*road.wire.in);
         }},
        {"a pump takes no signal of the program",
         [] {
             const Host host;
             static std::atomic<bool> taken{false};
             ::signal(SIGUSR1, [](int) { taken = true; });
             sigset_t one, before, pending;
             ::sigemptyset(&one);
             ::sigaddset(&one, SIGUSR1);
             ::pthread_sigmask(SIG_BLOCK, &one, &before);
             ::kill(::getpid(), SIGUSR1);
             ::usleep(20'000);  // for whoever takes it
             ::sigpending(&pending);
             CHECK(::sigismember(&pending, SIGUSR1));
             CHECK(!taken);
             ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
             CHECK(taken);
             ::signal(SIGUSR1, SIG_DFL);
         }},
        {"a pump lets go of a connection that was removed",
         [] {
             const Host host;
             auto c = std::make_shared<Connection>(std::make_unique<Lively>(-1), nullptr);
             const std::weak_ptr<Connection> seen = c;
             host.gateway->add(c);
             while (c.use_count() < 4) ::sched_yield();  // until the pump has it
             host.gateway->remove(*c);
             c.reset();
             while (!seen.expired()) ::sched_yield();
         }},
        {"what came behind the handshake is not lost",
         [] {
             Stranger stranger(true);
             stranger.connect(stranger.messages(3));
             for (uint64_t n = 0; n < 3; ++n) check_next(stranger.road.far.kind, *stranger.road.rx, n);
         }},
        {"who sends more behind the handshake than there is room for is refused",
         [] {
             Stranger stranger(true, {.shapes = {rows(Link::kScratch)}, .capacity = 4, .far_capacity = 1});
             stranger.connect(stranger.messages(4));
             CHECK(stranger.c.failed());
             CHECK_EQ(stranger.c.failure_code(), Errc::protocol);
             stranger.sockets = {};
             stranger.connect();
             CHECK(!stranger.c.failed());
         }},
        {"who breaks the protocol can be told where no frame has begun, and only there",
         [] {
             for (const bool begun : {false, true}) {
                 Stranger stranger(false, {.shapes = {rows(kLarge)}, .capacity = 1, .far_capacity = 1});
                 if (begun) stranger.road.send(0);
                 stranger.connect();
                 if (begun) stranger.say({});
                 stranger.say(Bytes(kHeader));
                 CHECK_EQ(stranger.c.failure_code(), Errc::protocol);
                 CHECK_EQ(static_cast<bool>(stranger.c.take_violator()), !begun);
             }
         }},
        {"the last words of a peer are news",
         [] {
             Stranger stranger(false);
             stranger.connect();
             stranger.c.take_news();
             Bytes words(kHeader + 2, std::byte{'{'});
             Header{Frame::refuse, 0, 0, 2, 0}.encode(words.data());
             stranger.say(words);
             CHECK_EQ(stranger.c.link().refused(), "{{");
             CHECK(stranger.c.has_news() || stranger.road.a.told.load() != 0);
         }},
    });
}
