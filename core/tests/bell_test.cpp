#include "sleepers.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

using namespace psyne;
using namespace psyne::test;

namespace {

template <class End>
std::string name_of(const End& end) {
    return bell_name(end.registry.file.storage().fifos().prefix, end.registry.join());
}

bool readable(const Bell& bell, int ms = 0) {
    pollfd p{bell.fd(), POLLIN, 0};
    return ::poll(&p, 1, ms) == 1;
}
void until_readable(const Bell& bell) { CHECK(readable(bell, 40'000)); }
template <class End>
std::unique_ptr<Bell> bell_of(const End& end) {
    return std::make_unique<Bell>(end.registry.file.storage().fifos().directory, name_of(end));
}
uint64_t bells(const Home& home) {
    uint64_t n = 0;
    for (const auto& name : home.files()) n += name.find(".wake") != std::string::npos;
    return n;
}

/// What an event loop does: sleeps in poll() while the end is armed.
void wait_armed(auto& end, Bell& bell) {
    for (;;) {
        end.arm(bell, true);
        if (end.ready()) break;
        until_readable(bell);
        bell.hush();
        if (end.ready()) break;
    }
    end.disarm(true);
    end.pass_on();
}

}  // namespace

TESTS(bell_test) {
    return check::run({
        {"a publish rings the bell of a receiver that is armed, and only then",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             auto bell = bell_of(*rx);
             put(*tx, 1);
             CHECK(!readable(*bell));
             take_value(*rx);
             rx->arm(*bell, true);
             CHECK(!rx->ready() && !readable(*bell));
             put(*tx, 2);
             CHECK(readable(*bell) && rx->ready());
             put(*tx, 3);  // its bit is gone: no second byte
             bell->hush();
             CHECK(!readable(*bell));
             CHECK_EQ(take_value(*rx), 2u);
             rx->disarm(true);
         }},
        {"an end rings the bell of a sender that is armed",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 1});
             auto rx = receiver(home);
             auto bell = bell_of(*tx);
             CHECK(tx->ready());
             put(*tx, 1);
             tx->arm(*bell, true);
             CHECK(!tx->ready() && !readable(*bell));
             take_value(*rx);
             CHECK(readable(*bell) && tx->ready());
             tx->disarm(true);
         }},
        {"the level follows what is there",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             auto bell = bell_of(*rx);
             for (uint64_t round = 0; round < 3; ++round) {
                 keep_level(*rx, *bell);
                 CHECK(!readable(*bell));
                 put(*tx, 1), put(*tx, 2);
                 CHECK(readable(*bell));
                 take_value(*rx);
                 keep_level(*rx, *bell);
                 CHECK(readable(*bell));
                 take_value(*rx);
             }
             keep_level(*rx, *bell);
             CHECK(!readable(*bell));
             tx->close(false);
             CHECK(readable(*bell));
             keep_level(*rx, *bell);
             CHECK(readable(*bell) && rx->ended());
         }},
        {"who rings late, when its wake was seen already, does not leave the level up",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             auto bell = bell_of(*rx);
             keep_level(*rx, *bell);
             idle(rx->registry).fetch_and(~1ull);  // claimed by one who is preempted before it rings
             keep_level(*rx, *bell);
             CHECK(rx->standby().asleep());
             bell->ring();
             CHECK(readable(*bell));
             keep_level(*rx, *bell);
             CHECK(!readable(*bell) && rx->standby().asleep());
             put(*tx, 1);
             CHECK(readable(*bell));
         }},
        {"members whose level is kept do not wake each other for ever at the end",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc));
             auto a = receiver(home), b = receiver(home), c = receiver(home);
             auto bell_a = bell_of(*a), bell_b = bell_of(*b);
             put(*tx, 1), put(*tx, 2);
             const Taken ta = take(*a);
             take(*c);  // and keeps it
             tx->close(false);
             for (int round = 0; round < 5; ++round) {
                 keep_level(*a, *bell_a), keep_level(*b, *bell_b);
                 CHECK(!a->ended_now() && !b->ended_now());
             }
             keep_level(*a, *bell_a), keep_level(*b, *bell_b);
             CHECK(!readable(*bell_a) && !readable(*bell_b));
             a->end(ta, false);
             c->close();
             CHECK(readable(*bell_a) && readable(*bell_b));
             CHECK(a->ended_now() && b->ended_now());
         }},
        {"a wake that was not used goes to another member",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::spmc));
             auto a = receiver(home), b = receiver(home);
             auto bell = bell_of(*a);
             a->arm(*bell, true);
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*b), 5u); });
             until_asleep(idle(tx->registry), 3);
             put(*tx, 5);       // wakes a, the lower id
             a->disarm(false);  // cancelled
             reader.join();
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"ends that event loops wait for lose no wake",
         [] {
             Home home;
             const uint64_t n = kSanitized ? 2000 : 20000;
             auto tx = sender(home, spec(), {.capacity = 1});
             auto rx = receiver(home);
             auto out = bell_of(*tx), in = bell_of(*rx);
             std::thread reader = in_thread([&] {
                 for (uint64_t i = 0; i < n; ++i) {
                     wait_armed(*rx, *in);
                     CHECK_EQ(take_value(*rx), i);
                 }
             });
             for (uint64_t i = 0; i < n; ++i) {
                 wait_armed(*tx, *out);
                 put(*tx, i);
             }
             reader.join();
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"who sleeps on its futex word is not rung",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             auto bell = bell_of(*rx);
             rx->arm(*bell, true);
             rx->disarm(false);
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*rx), 1u); });
             until_asleep(idle(tx->registry), 1);
             put(*tx, 1);
             reader.join();
             CHECK(!readable(*bell));
         }},
        {"a FIFO that is gone, or that nobody reads, is no harm to who rings it",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             auto bell = bell_of(*rx);
             rx->arm(*bell, true);
             put(*tx, 1);
             bell->hush();
             rx->arm(*bell, true);
             bell.reset();  // the cached descriptor has no reader now
             put(*tx, 2);
             rx->registry.me().bell.store(77);
             idle(rx->registry).store(1);
             put(*tx, 3);
             rx->registry.me().bell.store(0);
             for (uint64_t i = 1; i <= 3; ++i) CHECK_EQ(take_value(*rx), i);
             CHECK_EQ(bells(home), 0u);
         }},
        {"what lies under the name of a bell and is none is not written to",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             const std::string path = home.path + "/" + name_of(*rx);
             std::ofstream(path) << "";
             rx->registry.me().bell.store(1);
             rx->registry.wake(rx->registry.id);
             CHECK_EQ(std::filesystem::file_size(path), 0u);
         }},
        {"a socket under the name of a bell is left alone",
         [] {
             Home home;
             sockaddr_un at{};
             at.sun_family = AF_UNIX;
             const std::string path = home.path + "/other.wake";
             std::memcpy(at.sun_path, path.c_str(), path.size());
             const sys::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
             CHECK_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
             const Bell mine(home.directory->fd, waiting_bell_name("mine."));
             CHECK_EQ(bells(home), 2u);
         }},
        {"a bell is not made of a file that lies under its name",
         [] {
             Home home;
             std::ofstream(home.path + "/mine.wake.wake.new") << "mine";
             CHECK_THROWS(incompatible, "not a FIFO", Bell(home.directory->fd, "mine.wake"));
         }},
        {"a bell whose name was removed can be renamed: it is rung no more, and no harm to anyone",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             Bell bell(home.directory->fd, waiting_bell_name("test."));
             for (const auto& name : home.files())
                 if (name.find(".wake") != std::string::npos) std::filesystem::remove(home.path + "/" + name);
             bell.rename(name_of(*rx));
             rx->arm(bell, true);
             put(*tx, 1);  // rings nobody
             CHECK(rx->ready());
             rx->disarm(true);
         }},
        {"the FIFO of a killed member goes with its burial",
         [] {
             Home home;
             auto tx = sender(home);
             Child gone([&](Child&) {
                 static auto rx = receiver(home);
                 static auto bell = bell_of(*rx);
                 rx->arm(*bell, true);
             });
             gone.wait_here();
             CHECK_EQ(bells(home), 1u);
             gone.kill();
             CHECK(tx->registry.bury_dead());
             CHECK_EQ(bells(home), 0u);
         }},
        {"FIFOs of the dead go when somebody makes one; those of the living stay",
         [] {
             Home home;
             Bell mine(home.directory->fd, waiting_bell_name("mine."));
             Child gone([&](Child& me) {
                 static Bell bell(home.directory->fd, waiting_bell_name("gone."));
                 CHECK(::mkfifo((home.path + "/torn.wake.new").c_str(), 0600) == 0);
                 me.here();
             });
             gone.wait_here();
             CHECK_EQ(bells(home), 3u);
             gone.kill();
             Bell other(home.directory->fd, waiting_bell_name("other."));
             CHECK_EQ(bells(home), 2u);
         }},
        {"makers of bells and sweepers do not take each other's away",
         [] {
             Home home;
             std::vector<std::thread> threads;
             for (int i = 0; i < 4; ++i)
                 threads.push_back(in_thread([&home] {
                     for (int k = 0; k < (kSanitized ? 100 : 500); ++k) {
                         Bell bell(home.directory->fd, waiting_bell_name("one."));
                         ring_waiting(*home.directory, "one");
                         CHECK(readable(bell));
                     }
                 }));
             for (auto& t : threads) t.join();
             CHECK_EQ(bells(home), 0u);
         }},
        {"who makes a channel rings those that wait for it, and only those",
         [] {
             Home home;
             Bell mine(home.directory->fd, waiting_bell_name("test.")), other(home.directory->fd, waiting_bell_name("test2."));
             auto tx = sender(home);
             CHECK(readable(mine) && !readable(other));
             auto rx = receiver(home);
             mine.hush();
             mine.listen();
             mine.hush();
             mine.rename(name_of(*rx));
             rx->arm(mine, true);
             put(*tx, 1);
             CHECK(readable(mine));
             rx->disarm(false);
         }},
        {"a slice sees a message whose wake was lost, and counts it",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             auto bell = bell_of(*rx);
             rx->arm(*bell, true);
             CHECK(!rx->ready());
             CHECK_EQ(rx->slice(), kSlice);
             idle(rx->registry).store(0);
             put(*tx, 1);
             idle(rx->registry).store(1);  // as if its publisher had been killed before the wake
             CHECK_EQ(rx->slice(), kLateSlice);
             CHECK_EQ(late_wakes(tx->registry), 0u);
             CHECK_EQ(rx->slice(), 0u);
             CHECK_EQ(late_wakes(tx->registry), 1u);
             rx->disarm(false);
         }},
    });
}
