#include "support.hpp"

#include <sys/socket.h>

using namespace psyne;
using namespace psyne::test;

namespace {

/// An anonymous channel: its descriptor, and short ways to open ends of it.
struct Nameless {
    sys::Fd fd;
    NamesPtr names;
    explicit Nameless(Pattern pattern = Pattern::mpmc, std::vector<StageSpec> stages = {{"main"}})
        : fd(make_anonymous(spec(pattern, stages))), names(std::make_shared<const Anonymous>(fd)), spec_(spec(pattern, stages)) {}

    std::unique_ptr<Sender> tx(uint64_t capacity = 8) const {
        return open_sender(names, "1", spec_, {64, capacity, {}, Spinner::Mode::block}, "test");
    }
    std::unique_ptr<Receiver> rx(const std::string& stage = "") const {
        return open_receiver(names, "1", stage, Spinner::Mode::block, "test");
    }
    ChannelFile file() const { return std::move(*find_channel(names, "1")); }
    uint64_t bytes() const {
        struct stat st {};
        CHECK_EQ(::fstat(fd.get(), &st), 0);
        return static_cast<uint64_t>(st.st_blocks) * 512;
    }

private:
    ChannelSpec spec_;
};

uint64_t place(uint64_t join, Part part) { return (2 * join + static_cast<uint64_t>(part)) * kPartBytes; }

template <class Header>
void damage(const Nameless& c, uint64_t offset, void (*change)(Header&)) {
    const sys::Mapping m = sys::map(c.fd, kHeaderBytes, true, sys::Populate::no, offset);
    change(*reinterpret_cast<Header*>(m.data()));
}

}  // namespace

TESTS(memory_test) {
    return check::run({
        {"an anonymous channel is open from the start, and whoever has its descriptor joins it",
         [] {
             const Nameless c;
             auto tx = c.tx();
             auto rx = c.rx();
             put(*tx, 41);
             CHECK_EQ(take_value(*rx), 41u);
             goodbye(tx), goodbye(rx);
             CHECK_EQ(state_in<ChannelState>(c.file().header().state.load(seq_cst)), ChannelState::open);
         }},
        {"nobody can cut the memory short, and a memory that could be is refused",
         [] {
             const Nameless c;
             CHECK_EQ(::ftruncate(c.fd.get(), 4096), -1);
             const sys::Fd plain(::memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING));
             CHECK_EQ(::ftruncate(plain.get(), static_cast<off_t>(kMemoryBytes)), 0);
             CHECK_THROWS(incompatible, "is not the memory of a channel", find_channel(std::make_shared<const Anonymous>(plain), "1"));
         }},
        {"what was sent waits in the memory for who comes later, and then the channel has ended",
         [] {
             const Nameless c;
             auto tx = c.tx();
             for (uint64_t i = 0; i < 5; ++i) put(*tx, i);
             CHECK_EQ(goodbye(tx), 0u);
             auto rx = c.rx();
             for (uint64_t i = 0; i < 5; ++i) CHECK_EQ(take_value(*rx), i);
             CHECK(rx->ended());
             goodbye(rx);
             auto late = c.rx();
             CHECK(late->ended());
             CHECK(!late->sender_lost());
             goodbye(late);
         }},
        {"who comes before the first sender has not seen the end",
         [] {
             const Nameless c;
             auto rx = c.rx();
             CHECK(!rx->ended());
             auto tx = c.tx();
             CHECK(!rx->ended());
             goodbye(tx);
             CHECK(nothing(*rx) && rx->ended());
             goodbye(rx);
         }},
        {"a child that got the descriptor works after its maker is gone",
         [] {
             int both[2];
             CHECK_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both), 0);
             sys::Fd got;
             {
                 Child maker([&](Child&) {
                     static const Nameless c;
                     static auto tx = c.tx();
                     put(*tx, 7);
                     char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
                     iovec io{&byte, 1};
                     msghdr message{};
                     message.msg_iov = &io, message.msg_iovlen = 1;
                     message.msg_control = control, message.msg_controllen = sizeof control;
                     cmsghdr* h = CMSG_FIRSTHDR(&message);
                     h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int));
                     const int fd = c.fd.get();
                     std::memcpy(CMSG_DATA(h), &fd, sizeof fd);
                     CHECK_EQ(::sendmsg(both[0], &message, 0), 1);
                 });
                 char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
                 iovec io{&byte, 1};
                 msghdr message{};
                 message.msg_iov = &io, message.msg_iovlen = 1;
                 message.msg_control = control, message.msg_controllen = sizeof control;
                 CHECK_EQ(::recvmsg(both[1], &message, MSG_CMSG_CLOEXEC), 1);
                 int fd = -1;
                 std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
                 got = sys::Fd(fd);
                 maker.wait_here();
             }  // killed
             ::close(both[0]), ::close(both[1]);
             auto rx = open_receiver(std::make_shared<const Anonymous>(got), "1", "", Spinner::Mode::block, "test");
             CHECK_EQ(take_value(*rx), 7u);
             CHECK(nothing(*rx) && rx->ended() && rx->sender_lost());
             goodbye(rx);
         }},
        {"pages of a lane go back when it was let go by all and nobody maps it",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const uint64_t empty = c.bytes();
             for (int i = 0; i < 20; ++i) {
                 auto tx = c.tx(1024);
                 put(*tx, 1);
                 CHECK(c.bytes() >= empty + 1024 * 64);
                 CHECK_EQ(take_value(*rx), 1u);
                 goodbye(tx);
                 rx->look_after_others();  // lets go of it
                 rx->registry.reap();
                 CHECK_EQ(c.bytes(), empty);
             }
             goodbye(rx);
         }},
        {"pages that somebody maps stay, whatever becomes of their lane",
         [] {
             const Nameless c;
             auto tx = c.tx();
             auto rx = c.rx(), idle = c.rx();
             CHECK(nothing(*idle));
             put(*tx, 9);
             const Taken t = take(*rx);
             rx->end(t, false);
             const Slab& kept = idle->lanes()[0].slab;
             tx->close(false);
             leave(tx->registry);
             rx->look_after_others();
             rx->registry.reap();
             CHECK_EQ(state_in<LaneState>(c.file().lane(0).state.load(seq_cst)), LaneState::free);
             CHECK_EQ(*reinterpret_cast<const uint64_t*>(kept.at(0)), 9u);
             CHECK_EQ(lap_of(kept.ready[0].load(acquire)), 1u);
             tx.reset();
             idle->look_after_others();
             rx->registry.reap();
             CHECK(c.bytes() < 2 * kSlabUnit + 128 * 1024);
             goodbye(rx), goodbye(idle);
         }},
        {"what a sender leaves that died before its lane was open is given back",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const uint64_t empty = c.bytes();
             Child child([&](Child&) {
                 static auto r = std::make_unique<Registry>(c.file(), "test");
                 CHECK(r->enlist(kMaxReceivers, kMaxMembers, 0));
                 static const Block made = r->file.storage().make(r->join(), Part::slab, 1 << 20, 1 << 20);
             });
             child.wait_here();
             CHECK(c.bytes() >= empty + (1 << 20));
             rx->registry.reap();
             CHECK(c.bytes() >= empty + (1 << 20));  // somebody builds it
             child.kill();
             CHECK(rx->registry.bury_dead());
             rx->registry.reap();
             CHECK_EQ(c.bytes(), empty);
             goodbye(rx);
         }},
        {"a lane whose sender is gone is not swept before it was received",
         [] {
             const Nameless c;
             auto rx = c.rx();
             CHECK(nothing(*rx));
             Child child([&](Child&) {
                 static auto tx = c.tx();
                 put(*tx, 5);
             });
             child.wait_here();
             child.kill();
             CHECK(rx->registry.bury_dead());
             rx->registry.reap();
             auto other = c.rx();
             CHECK_EQ(take_value(*other), 5u);
             goodbye(rx), goodbye(other);
         }},
        {"a range is never used again: a lane in the same place has another",
         [] {
             const Nameless c;
             auto a = c.tx();
             const uint64_t join = a->registry.join();
             goodbye(a);
             auto b = c.tx();
             CHECK_EQ(b->registry.id, kMaxReceivers);
             CHECK(b->registry.join() > join);
             goodbye(b);
         }},
        {"more than a range or a machine has is an error with numbers, and leaves no page",
         [] {
             const Nameless c;
             const uint64_t empty = c.bytes();
             CHECK_THROWS(no_space, "at most 68719476736", c.tx(1ull << 31));
             const uint64_t left = sys::memory_left();
             if (left < kPartBytes - (1ull << 30)) CHECK_THROWS(no_space, "bytes of memory are free", c.tx(left / 64 + (1 << 20)));
             CHECK_EQ(c.bytes(), empty);
         }},
        {"the cache of files is free memory of a cgroup, what is in use is not",
         [] {
             const Home cgroup;
             const auto says = [&](const char* file, const char* text) { std::ofstream(cgroup.path + "/" + file) << text; };
             const uint64_t whole = sys::memory_left(cgroup.path);
             CHECK(whole > 10'000);
             says("memory.max", "10000\n"), says("memory.current", "9000\n");
             CHECK_EQ(sys::memory_left(cgroup.path), 1000u);
             says("memory.stat", "anon 4000\nfile 5000\nshmem 1000\ninactive_file 3000\nactive_file 500\n");
             CHECK_EQ(sys::memory_left(cgroup.path), 4500u);
             says("memory.max", "max\n");
             CHECK(sys::memory_left(cgroup.path) > 10'000);
         }},
        {"a memory without places left says so",
         [] {
             const Nameless c;
             c.file().header().next_join.store(kMemoryJoins, seq_cst);
             CHECK_THROWS(no_space, "used up", c.tx());
         }},
        {"damaged headers are refused",
         [] {
             const std::initializer_list<void (*)(SlabHeader&)> changes = {
                 [](SlabHeader& h) { h.shape.file_bytes = kPartBytes + 1; }, [](SlabHeader& h) { h.shape.file_bytes = 1; },
                 [](SlabHeader& h) { h.shape.file_bytes = 1ull << 30; },  // more than the memory has
                 [](SlabHeader& h) { h.shape.join += 1; },                   [](SlabHeader& h) { h.shape.magic += 1; },
                 [](SlabHeader& h) { h.shape.capacity = 1ull << 40; },       [](SlabHeader& h) { h.shape.payload_offset = ~0ull; }};
             for (const auto change : changes) {
                 const Nameless c;
                 auto tx = c.tx();
                 damage(c, place(tx->registry.join(), Part::slab), change);
                 CHECK_THROWS(incompatible, "anonymous://1", c.rx());
                 goodbye(tx);
             }
             for (const auto change : {+[](ChannelShape& s) { s.file_bytes = ~0ull; }, +[](ChannelShape& s) { s.file_bytes = 0; }, +[](ChannelShape& s) { s.file_bytes = 1ull << 30; },
                                       +[](ChannelShape& s) { s.magic = 0; }, +[](ChannelShape& s) { s.schema_bytes = ~0ull; }}) {
                 const Nameless c;
                 damage(c, 0, change);
                 CHECK_THROWS(incompatible, "anonymous://1", c.rx());
             }
         }},
        {"a lane that claims a number beyond the memory is taken for gone",
         [] {
             const Nameless c;
             const ChannelFile file = c.file();
             for (const uint64_t join : {uint64_t{0}, uint64_t{kMemoryJoins}, uint64_t{~0ull >> 8}}) {
                 file.lane(3).state.store(stated(join, LaneState::open), seq_cst);
                 file.header().lanes_epoch.fetch_add(1, seq_cst);
                 auto rx = c.rx();
                 CHECK(rx->lanes().size() == 0);
                 goodbye(rx);
             }
         }},
        {"named channels inside a process work like those of a directory, without one",
         [] {
             const auto names = std::make_shared<const Process>();
             const auto tx_of = [&](Pattern p) { return open_sender(names, "test", spec(p), {64, 8, {}, Spinner::Mode::block}, "test"); };
             const auto rx_of = [&] { return open_receiver(names, "test", "", Spinner::Mode::block, "test"); };
             CHECK(rx_of() == nullptr);
             auto tx = tx_of(Pattern::spsc);
             CHECK_THROWS(busy, "memory://test", tx_of(Pattern::spsc));
             CHECK_THROWS(mismatch, "pattern", tx_of(Pattern::mpmc));
             auto rx = rx_of();
             put(*tx, 3);
             goodbye(tx);
             auto ty = tx_of(Pattern::mpmc);  // replaces it
             CHECK_EQ(take_value(*rx), 3u);
             CHECK(nothing(*rx) && rx->ended() && rx->closed());
             goodbye(rx);
             CHECK_EQ(names->generations("test").size(), 1u);
             CHECK_EQ(goodbye(ty), 0u);
             CHECK(names->generations("test").empty());
             CHECK(find_channel(names, "test") == std::nullopt);
         }},
        {"a watcher of a process is told when a channel comes",
         [] {
             const auto names = std::make_shared<const Process>();
             std::thread maker([&] {
                 check::guarded([&] {
                     auto tx = open_sender(names, "test", spec(), {64, 8, {}, Spinner::Mode::block}, "test");
                     goodbye(tx);
                 });
             });
             std::unique_ptr<Receiver> rx;
             names->watch(1'000'000);
             maker.join();
             names->watch(1'000'000);  // and comes back without one
         }},
    });
}
