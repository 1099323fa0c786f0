#include "support.hpp"

#include <sys/resource.h>
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

uint64_t offset_of(const SlabPlace& place, Part part) {
    return place.id() * kPlaceBytes + static_cast<uint64_t>(part) * kPartBytes;
}

/// Locks of many places by a description of its own, as ends that map them have them.
struct Locks {
    sys::Fd fd;
    Locks(const Nameless& c, uint64_t first, uint64_t count, short type = F_RDLCK) : fd(sys::reopen(c.fd, true)) {
        auto lock = sys::byte_lock(first, type);
        lock.l_len = static_cast<off_t>(count);
        CHECK_EQ(::fcntl(fd.get(), F_OFD_SETLK, &lock), 0);
    }
};

constexpr SlabSpec kSmall{64, 64, 8, 1};
constexpr SlabSpec kExtended{64, 64, 8, 1, {.extents = true}, 1 << 20};

Slab attach(const Nameless& c, const SlabPlace& place, bool writable = false) {
    return Slab::attach(c.file().storage(), place, 64, writable, sys::Populate::no);
}
void reap(const Nameless& c) { Registry(c.file(), "test").reap(); }

/// A sender comes, sends one message that `rx` receives, and is gone with its lane. Where it had its slab.
SlabPlace come_and_go(const Nameless& c, Receiver& rx, uint64_t value) {
    auto tx = c.tx();
    const SlabPlace place = tx->slab().place;
    CHECK_EQ(tx->slab().header->skips_before.load(seq_cst), 1u);  // whatever cell and number it has
    for (uint64_t i = 0; i < tx->capacity(); ++i) put(*tx, value);
    for (uint64_t i = 0; i < tx->capacity(); ++i) CHECK_EQ(take_value(rx), value);
    goodbye(tx);
    rx.look_after_others();  // lets go of it
    rx.registry.reap();
    return place;
}

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
        {"a slab that no cell names is not swept while its maker lives, and given back when he is dead",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const uint64_t empty = c.bytes();
             Child child([&](Child&) {
                 static auto r = std::make_unique<Registry>(c.file(), "test");
                 CHECK(r->enlist(kMaxReceivers, kMaxMembers, 0));
                 static const Slab made = Slab::create(r->file.storage(), {0, r->join(), 0, 0}, {64, 64, 1 << 14, 1});
                 static const Block begun = r->file.storage().make({0, r->join(), 1, 1}, Part::slab, 1 << 20, 1 << 20);
             });
             child.wait_here();
             const uint64_t made = c.bytes();
             CHECK(made >= empty + (2 << 20));
             rx->registry.reap();
             CHECK_EQ(c.bytes(), made);
             child.kill();
             CHECK(rx->registry.bury_dead());
             rx->registry.reap();
             CHECK_EQ(c.bytes(), empty);
             goodbye(rx);
         }},
        {"what a killed maker leaves is overwritten, swept or not",
         [] {
             const Nameless c;
             Child child([&](Child&) {
                 static const ChannelFile file = c.file();
                 static const Slab made = Slab::create(file.storage(), {0, 1, 0, 0}, kExtended);
                 for (uint64_t i = 0; i < made.capacity; ++i) {
                     made.ready[i].store(~0ull, seq_cst);
                     made.row(0)[i].store(~0ull, seq_cst);
                     made.back_extent(file.storage(), i, 5000);
                     std::memset(made.at(i), 0xff, 64);
                     made.extents[i].store(5000, seq_cst);
                     std::memset(made.data(i), 0xff, 5000);
                 }
             });
             child.wait_here();
             const ChannelFile file = c.file();
             CHECK(!Slab::create(file.storage(), {0, 2, 0, 0}, kExtended));  // he lives
             child.kill();
             const Slab made = Slab::create(file.storage(), {0, 2, 0, 0}, kExtended);
             CHECK(static_cast<bool>(made));
             for (uint64_t i = 0; i < made.capacity; ++i) {
                 CHECK_EQ(made.ready[i].load(seq_cst), 0u);
                 CHECK_EQ(made.row(0)[i].load(seq_cst), 0u);
                 CHECK_EQ(made.extents[i].load(seq_cst), 0u);
                 CHECK_EQ(static_cast<int>(made.at(i)[63]), 0);
                 made.extents[i].store(5000, seq_cst);
                 CHECK_EQ(static_cast<int>(made.data(i)[4999]), 0);
             }
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
        {"a place is used again, by million joins too, and then it is empty",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const SlabPlace first = come_and_go(c, *rx, 7);
             for (const uint64_t joins : {1ull << 20, 1ull << 25, 1ull << 40, 1ull << 55}) {
                 c.file().header().next_join.store(joins, seq_cst);
                 auto tx = c.tx();
                 CHECK_EQ(tx->slab().place.id(), first.id());
                 CHECK_EQ(tx->slab().place.join, joins + 1);
                 for (uint64_t i = 0; i < tx->capacity(); ++i) {
                     CHECK_EQ(tx->slab().ready[i].load(seq_cst), 0u);
                     CHECK_EQ(ack_word(*tx, i), 0u);
                     CHECK_EQ(*reinterpret_cast<const uint64_t*>(tx->slab().at(i)), 0u);
                 }
                 put(*tx, joins);
                 CHECK_EQ(take_value(*rx), joins);
                 goodbye(tx);
                 rx->look_after_others();
                 rx->registry.reap();
             }
             goodbye(rx);
         }},
        {"a mapping that outlives its lane never sees another's words, and its place is used when it is gone",
         [] {
             const Nameless c;
             auto rx = c.rx(), idle = c.rx();
             auto tx = c.tx();
             CHECK(nothing(*idle));
             put(*tx, 9);
             CHECK_EQ(take_value(*rx), 9u);
             const Slab& kept = idle->lanes()[0].slab;
             goodbye(tx);
             rx->look_after_others();
             rx->registry.reap();
             const std::string before(reinterpret_cast<const char*>(kept.header), kSlabUnit);
             for (uint64_t i = 0; i < 50; ++i) {
                 const SlabPlace place = come_and_go(c, *rx, 100 + i);
                 CHECK_EQ(place.lane, kept.place.lane);
                 CHECK_EQ(place.cell, 1u);
                 CHECK(std::string(reinterpret_cast<const char*>(kept.header), kSlabUnit) == before);
             }
             idle->look_after_others();
             CHECK_EQ(come_and_go(c, *rx, 3).cell, 0u);
             goodbye(rx), goodbye(idle);
         }},
        {"a slab that a sender's own arrays still use keeps its place",
         [] {
             const Nameless c;
             auto rx = c.rx();
             auto tx = c.tx();
             put(*tx, 4);
             CHECK_EQ(take_value(*rx), 4u);
             tx->close(false);
             leave(tx->registry);  // its slab lives on
             rx->look_after_others();
             rx->registry.reap();
             CHECK_EQ(come_and_go(c, *rx, 5).cell, 1u);
             CHECK_EQ(*reinterpret_cast<const uint64_t*>(tx->slab().at(0)), 4u);
             tx.reset();
             CHECK_EQ(come_and_go(c, *rx, 6).cell, 0u);
             goodbye(rx);
         }},
        {"a forked child that has its parent's mapping keeps the place as long as it lives",
         [] {
             const Nameless c;
             auto rx = c.rx();
             auto tx = c.tx();
             put(*tx, 4);
             const Slab& kept = tx->slab();
             int asked[2];
             CHECK_EQ(::pipe(asked), 0);
             Child child([&](Child& self) {
                 self.here();
                 char byte = 0;
                 CHECK_EQ(::read(asked[0], &byte, 1), 1);
                 CHECK_EQ(*reinterpret_cast<const uint64_t*>(kept.at(0)), 4u);
             });
             child.wait_here();
             CHECK_EQ(take_value(*rx), 4u);
             goodbye(tx);
             rx->look_after_others();
             rx->registry.reap();
             CHECK_EQ(come_and_go(c, *rx, 5).cell, 1u);
             CHECK_EQ(::write(asked[1], "x", 1), 1);
             child.wait_here();
             child.kill();
             ::close(asked[0]), ::close(asked[1]);
             CHECK_EQ(come_and_go(c, *rx, 6).cell, 0u);
             goodbye(rx);
         }},
        {"who comes late for a slab finds nothing, although another lies in its place",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const SlabPlace gone = come_and_go(c, *rx, 1);
             CHECK(!attach(c, gone));
             auto tx = c.tx();
             put(*tx, 2);
             const SlabPlace place = tx->slab().place;
             CHECK_EQ(place.id(), gone.id());
             CHECK_EQ(place.number, gone.number);
             CHECK(!attach(c, gone));
             CHECK(static_cast<bool>(attach(c, place)));
             const ChannelFile file = c.file();
             Atomic64& cell = file.lane(place.lane).slabs[place.cell].slab;
             cell.store(0, seq_cst);  // retired
             CHECK(!attach(c, place));
             for (const Part part : {Part::slab, Part::acks, Part::extents}) CHECK(!file.storage().open(place, part, false));
             for (const uint64_t other : {cell_word(place.join, place.number + 1), cell_word(gone.join, gone.number)}) {
                 cell.store(other, seq_cst);
                 CHECK(!attach(c, place));
             }
             cell.store(cell_word(place.join, place.number), seq_cst);
             const Slab again = attach(c, place);
             CHECK_EQ(*reinterpret_cast<const uint64_t*>(again.at(0)), 2u);
             goodbye(tx), goodbye(rx);
         }},
        {"a retired slab that a member still maps keeps its words; when it is let go, its place is empty at once",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const ChannelFile file = c.file();
             LaneRecord& lane = file.lane(0);
             const uint64_t empty = c.bytes();
             auto tx = c.tx();
             const SlabPlace next{0, tx->registry.join(), 5, 1};
             auto second = std::make_unique<Slab>(Slab::create(file.storage(), next, kSmall, 8));
             second->ready[3].store(word(1, Ready::ready), seq_cst);
             lane.slabs[5].slab.store(cell_word(next.join, 1), seq_cst);
             auto member = std::make_unique<Slab>(attach(c, next));
             second.reset();
             file.storage().remove(next);  // not while its cell names it
             CHECK_EQ(member->ready[3].load(seq_cst), word(1, Ready::ready));
             lane.slabs[5].slab.store(0, seq_cst);
             file.storage().remove(next);
             CHECK_EQ(member->ready[3].load(seq_cst), word(1, Ready::ready));
             CHECK(!Slab::create(file.storage(), next, kSmall));
             const uint64_t mapped = c.bytes();
             member.reset();
             file.storage().remove(next);
             CHECK(c.bytes() < mapped);
             CHECK(static_cast<bool>(Slab::create(file.storage(), next, kSmall)));
             goodbye(tx);
             rx->look_after_others();
             reap(c);
             CHECK_EQ(c.bytes(), empty);
             goodbye(rx);
         }},
        {"who makes room and is stopped holds up nobody: others attach, and make slabs elsewhere",
         [] {
             const Nameless c;
             auto rx = c.rx();
             const uint64_t empty = c.bytes();
             auto tx = c.tx();
             put(*tx, 1);
             std::optional<Locks> stopped(std::in_place, c, kRoomLocks + slab_id(0, 0), 1, F_WRLCK);
             auto other = c.rx();
             CHECK_EQ(take_value(*other), 1u);
             goodbye(other);
             goodbye(tx);
             rx->look_after_others();
             rx->registry.reap();
             CHECK(c.bytes() > empty);  // not swept: somebody is at it
             tx = c.tx();
             CHECK_EQ(tx->slab().place.lane, 0u);
             CHECK_EQ(tx->slab().place.cell, 1u);
             put(*tx, 2);
             CHECK_EQ(take_value(*rx), 2u);
             goodbye(tx);
             stopped.reset();
             rx->look_after_others();
             rx->registry.reap();
             CHECK_EQ(c.bytes(), empty);
             goodbye(rx);
         }},
        {"where all places of a lane are mapped the next lane's are used, and with all 2048 it is an error that says what to do",
         [] {
             const Nameless c;
             const std::optional<Locks> of_lane(std::in_place, c, kMapLocks + slab_id(0, 0), kMaxSlabs);
             auto tx = c.tx();
             CHECK_EQ(tx->slab().place.lane, 1u);
             goodbye(tx);
             std::optional<Locks> all(std::in_place, c, kMapLocks + slab_id(0, 0), kMaxLanes * kMaxSlabs);
             CHECK_THROWS(busy, "has 64 senders (or lanes of former ones that are unread or still viewed) already; close some", c.tx());
             all.reset();
             goodbye(tx = c.tx());
         }},
        {"extents lie in the place of their slab, and their pages go back one by one and with it",
         [] {
             const Nameless c;
             const uint64_t empty = c.bytes();
             const ChannelFile file = c.file();
             LaneRecord& lane = file.lane(2);
             const SlabPlace place{2, 9, 3, 4};
             auto made = std::make_unique<Slab>(Slab::create(file.storage(), place, kExtended));
             lane.state.store(stated(9, LaneState::open), seq_cst);
             lane.slabs[3].slab.store(cell_word(9, 4), seq_cst);
             auto seen = std::make_unique<Slab>(attach(c, place, true));
             CHECK_EQ(seen->extent_stride(), 1u << 20);
             const uint64_t without = c.bytes();
             for (const uint64_t slot : {2, 7}) {
                 made->back_extent(file.storage(), slot, 100'000);
                 made->extents[slot].store(100'000, seq_cst);
                 std::memset(made->data(slot), static_cast<int>(slot), 100'000);
                 CHECK_EQ(seen->room_of(slot), 100'000u);
                 CHECK_EQ(static_cast<uint64_t>(seen->data(slot)[99'999]), slot);
             }
             CHECK_EQ(c.bytes(), without + 2 * Slab::extent_pages(100'000));
             uint64_t start = 0;
             CHECK(sys::read_at(c.fd, &start, 8, offset_of(place, Part::extents) + 7 * (1u << 20)));
             CHECK_EQ(start, 0x0707070707070707u);
             made->give_back_extent(2, 100'000);
             CHECK_EQ(c.bytes(), without + Slab::extent_pages(100'000));
             CHECK_EQ(static_cast<uint64_t>(seen->data(7)[5]), 7u);
             made.reset();
             lane.slabs[3].slab.store(0, seq_cst);
             file.storage().sweep();
             CHECK_EQ(static_cast<uint64_t>(seen->data(7)[5]), 7u);  // still mapped
             seen.reset();
             file.storage().sweep();
             CHECK_EQ(c.bytes(), empty);
         }},
        {"a sweep without a descriptor left gives nothing back and ends nobody",
         [] {
             const Nameless c;
             const ChannelFile file = c.file();
             CHECK(static_cast<bool>(Slab::create(file.storage(), {0, 1, 0, 0}, kSmall)));
             const uint64_t made = c.bytes();
             rlimit before{}, none{};
             CHECK_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
             none.rlim_max = before.rlim_max;
             CHECK_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
             file.storage().sweep();
             CHECK_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
             CHECK_EQ(c.bytes(), made);
             file.storage().sweep();
             CHECK(c.bytes() < made);
         }},
        {"a child that is forked while room is made does not keep it",
         [] {
             if (kSanitized) return;  // they want no fork beside threads
             const Nameless c;
             std::atomic<bool> over{false};
             std::thread maker([&] {
                 check::guarded([&] {
                     const ChannelFile file = c.file();
                     while (!over.load()) (void)Slab::create(file.storage(), {0, 1, 31, 0}, kSmall);
                 });
             });
             std::vector<Child> children;
             for (int i = 0; i < 30; ++i) children.emplace_back([](Child&) {});
             over.store(true);
             maker.join();
             CHECK(!sys::byte_locked(sys::reopen(c.fd, true), kRoomLocks + slab_id(0, 31)));
         }},
        {"makers, attachers and sweepers at once: whoever finds a slab finds its words, whole, as long as he maps it",
         [] {
             const Nameless c;
             const ChannelFile file = c.file();
             LaneRecord& lane = file.lane(0);
             lane.state.store(stated(1, LaneState::open), seq_cst);
             std::atomic<bool> over{false};
             std::atomic<uint64_t> found{0}, made{0};
             // One makes slabs of lane 0 and retires them, in turn in cells 0 and 1: mostly in one that was just left.
             std::thread maker([&] {
                 check::guarded([&] {
                     const ChannelFile mine = c.file();
                     for (uint64_t n = 0; made < (kSanitized ? 200u : 1000u) || found < 100; ++n) {
                         const SlabPlace place{0, 1, n % 2, n};
                         Slab slab = Slab::create(mine.storage(), place, kSmall);
                         if (!slab) continue;
                         for (uint64_t i = 0; i < slab.capacity; ++i) slab.ready[i].store(n + 1, relaxed);
                         lane.slabs[place.cell].slab.store(cell_word(1, n), seq_cst);
                         if (n % 2 == 0) slab = Slab{};  // as if its sender had died: others may still receive
                         if (n % 3 == 0) ::sched_yield();
                         if (n % 2 == 0) CHECK_EQ(attach(c, place).ready[7].load(relaxed), n + 1);
                         made.fetch_add(1);
                         lane.slabs[place.cell].slab.store(0, seq_cst);
                     }
                     over.store(true);
                 });
             });
             const auto until_over = [&](auto&& work) {
                 return std::thread([&, work] {
                     check::guarded([&] {
                         const ChannelFile mine = c.file();
                         while (!over.load()) work(mine);
                     });
                 });
             };
             std::thread sweeper = until_over([](const ChannelFile& mine) { mine.storage().sweep(); });
             std::thread attacher = until_over([&](const ChannelFile& mine) {
                 for (const SlabPlace& place : slabs_of(lane, 0, 1)) {
                     const Slab slab = Slab::attach(mine.storage(), place, 64, false, sys::Populate::no);
                     if (!slab) continue;
                     found.fetch_add(1);
                     for (int looks = 0; looks < 20; ++looks)
                         for (uint64_t i = 0; i < slab.capacity; ++i) CHECK_EQ(slab.ready[i].load(relaxed), place.number + 1);
                 }
             });
             maker.join(), sweeper.join(), attacher.join();
         }},
        {"more than a place or a machine has is an error with numbers, and leaves no page",
         [] {
             const Nameless c;
             const uint64_t empty = c.bytes();
             CHECK_THROWS(no_space, "at most 70368744177664", c.tx(1ull << 41));
             const uint64_t left = sys::memory_left();
             CHECK_THROWS(no_space, "bytes of memory are free", c.tx(left / 64 + (1 << 20)));
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
        {"damaged headers are refused",
         [] {
             const std::initializer_list<void (*)(SlabHeader&)> changes = {
                 [](SlabHeader& h) { h.shape.file_bytes = kPartBytes + 1; }, [](SlabHeader& h) { h.shape.file_bytes = 1; },
                 [](SlabHeader& h) { h.shape.file_bytes = 1ull << 30; },  // more than the memory has
                 [](SlabHeader& h) { h.shape.join += 1; },                   [](SlabHeader& h) { h.shape.magic += 1; },
                 [](SlabHeader& h) { h.shape.number += 1; },                 [](SlabHeader& h) { h.shape.room = h.shape.stride + 1; },
                 [](SlabHeader& h) { h.shape.extent_stride = 64; },          [](SlabHeader& h) { h.shape.extent_offset = kHeaderBytes + 128; },
                 [](SlabHeader& h) { h.shape.capacity = 1ull << 40; },       [](SlabHeader& h) { h.shape.payload_offset = ~0ull; }};
             for (const auto change : changes) {
                 const Nameless c;
                 auto tx = c.tx();
                 damage(c, offset_of(tx->slab().place, Part::slab), change);
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
        {"a cell that names what is not there is taken for gone",
         [] {
             const Nameless c;
             const ChannelFile file = c.file();
             const uint64_t empty = c.bytes();
             for (const uint64_t join : {uint64_t{0}, uint64_t{5}, uint64_t{~0ull >> 8}})
                 for (const uint64_t w : {uint64_t{0}, uint64_t{1}, uint64_t{~0ull}, cell_word(join, 0), cell_word(join, 1ull << 39)}) {
                     file.lane(63).slabs[31].slab.store(w, seq_cst);
                     file.lane(63).state.store(stated(join, LaneState::open), seq_cst);
                     file.header().lanes_epoch.fetch_add(1, seq_cst);
                     auto rx = c.rx();
                     CHECK(rx->lanes().size() == 0);
                     goodbye(rx);
                     CHECK_EQ(c.bytes(), empty);  // looking made no pages
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
