#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

constexpr SlabPlace kPlace{2, 7, 0, 0};
constexpr SlabSpec kWithExtents{64, 64, 8, 2, {.extents = true}, 10'000};
const std::string kPrefix = "test.0000000000000001.";

Slab create(const Home& home, SlabSpec s = {64, 64, 8, 2, true}) {
    return Slab::create(*home.directory->storage("test", 1), kPlace, s);
}
Slab attach(const Home& home, bool writable = false) {
    return Slab::attach(*home.directory->storage("test", 1), kPlace, 64, writable, sys::Populate::yes);
}

/// Maps one of the two files writable and changes something in it.
template <class Header>
void damage(const Home& home, const char* kind, void (*change)(Header&)) {
    const std::string name = kPrefix + "7.0." + kind;
    const sys::Fd fd = sys::open_file(*home.directory->fd, name, true);
    const sys::Mapping m = sys::map(fd, sys::checked_size(fd, name), true, sys::Populate::no);
    change(*reinterpret_cast<Header*>(m.data()));
}

template <class Header>
void rejected(const char* kind, const char* part, std::initializer_list<void (*)(Header&)> changes,
              const SlabSpec& made = {64, 64, 8, 2, {true}}) {
    for (const auto change : changes) {
        const Home home;
        const Slab slab = create(home, made);
        damage(home, kind, change);
        CHECK_THROWS(incompatible, part, attach(home));
    }
}

}  // namespace

TESTS(slab_test) {
    return check::run({
        {"a slab that one end makes is what another end maps",
         [] {
             const Home home;
             Slab made = create(home);
             const Slab seen = attach(home);
             CHECK(static_cast<bool>(seen));
             CHECK_EQ(seen.capacity, 8u);
             CHECK_EQ(seen.stride, 64u);
             CHECK_EQ(seen.stages, 2u);
             made.ready[3].store(word(1, Ready::ready), release);
             made.row(1)[5].store(word(1, Ack::done), release);
             made.dropped[2].store(9, relaxed);
             std::memset(made.at(7), 0x5a, 64);
             CHECK_EQ(seen.ready[3].load(acquire), word(1, Ready::ready));
             CHECK_EQ(seen.row(1)[5].load(acquire), word(1, Ack::done));
             CHECK_EQ(seen.dropped[2].load(relaxed), 9u);
             CHECK_EQ(static_cast<int>(seen.at(7)[63]), 0x5a);
         }},
        {"a new slab is all zero and its payload is page-aligned",
         [] {
             const Home home;
             const Slab slab = create(home, {100, 128, 5, 3, false});
             CHECK_EQ(reinterpret_cast<uintptr_t>(slab.payload) % 4096, 0u);
             CHECK(slab.dropped == nullptr);
             for (uint64_t i = 0; i < 5; ++i) {
                 CHECK_EQ(slab.ready[i].load(relaxed), 0u);
                 for (uint32_t s = 0; s < 3; ++s) CHECK_EQ(slab.row(s)[i].load(relaxed), 0u);
             }
         }},
        {"a side column is there where it was asked for, apart from all others, and its readers find it",
         [] {
             using Column = Atomic64* Slab::*;
             const std::pair<bool SideColumns::*, Column> all[] = {
                 {&SideColumns::dropped, &Slab::dropped}, {&SideColumns::variants, &Slab::variants},
                 {&SideColumns::stamps, &Slab::stamps}, {&SideColumns::remote, &Slab::remote}};
             SideColumns every;
             for (const auto& [wanted, mine] : all) {
                 const Home home;
                 SideColumns one;
                 every.*wanted = one.*wanted = true;
                 const Slab made = create(home, {64, 64, 8, 2, one}), seen = attach(home);
                 for (const auto& [_, column] : all) {
                     CHECK_EQ(made.*column != nullptr, column == mine);
                     CHECK_EQ(seen.*column != nullptr, column == mine);
                 }
             }
             const Home home;
             const Slab made = create(home, {64, 64, 8, 2, every}), seen = attach(home);
             std::memset(made.at(0), 1, 8 * 64);
             for (uint64_t i = 0; i < 32; ++i) (made.*all[i / 8].second)[i % 8].store(i, relaxed);
             for (uint64_t i = 0; i < 32; ++i) CHECK_EQ((seen.*all[i / 8].second)[i % 8].load(relaxed), i);
             for (uint64_t i = 0; i < 8; ++i) CHECK_EQ(seen.ready[i].load(relaxed), 0u);
             CHECK_EQ(static_cast<int>(seen.at(7)[63]), 1);
         }},
        {"a slot knows its position and its lap",
         [] {
             const Home home;
             const Slab slab = create(home);
             CHECK_EQ(slab.position(0, 1), 0u);
             CHECK_EQ(slab.position(3, 1), 3u);
             CHECK_EQ(slab.position(3, 3), 19u);
         }},
        {"who only reads cannot write, by the page table",
         [] {
             if (kThreadSanitizer) return;  // one mapping for all: see one_mapping.hpp
             const Home home;
             const Slab made = create(home);
             const Slab seen = attach(home);
             const pid_t pid = ::fork();
             if (pid == 0) {
                 ::signal(SIGSEGV, SIG_DFL);
                 *reinterpret_cast<volatile char*>(seen.at(0)) = 1;
                 ::_exit(0);
             }
             int status = 0;
             ::waitpid(pid, &status, 0);
             CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
         }},
        {"a mutating stage writes in place",
         [] {
             const Home home;
             const Slab made = create(home);
             const Slab stage = attach(home, true);
             stage.at(0)[0] = std::byte{42};
             CHECK_EQ(static_cast<int>(made.at(0)[0]), 42);
         }},
        {"a slab that is gone is an empty object, not an error",
         [] {
             const Home home;
             CHECK(!attach(home));
             Slab made = create(home);
             sys::unlink_file(*home.directory->fd, kPrefix + "7.0.acks");
             CHECK(!attach(home));
             home.directory->storage("test", 1)->remove(kPlace);
             CHECK(home.files().empty());
             made.at(0)[0] = std::byte{1};  // the mapping lives on
         }},
        {"a second slab under the same name is refused",
         [] {
             const Home home;
             const Slab made = create(home);
             CHECK_THROWS(incompatible, "is there already", create(home));
         }},
        {"more than there is memory for is an error with numbers",
         [] {
             const Home home;
             CHECK_THROWS(no_space, "bytes", create(home, {1ull << 30, 1ull << 30, 1 << 20, 1, false}));
             CHECK_THROWS(no_space, "slots", create(home, {64, 64, 1ull << 60, 1, false}));
             CHECK_THROWS(no_space, "slots", create(home, {1ull << 63, 1ull << 63, 2, 1, false}));
             CHECK(home.files().empty());
         }},
        {"foreign or newer headers are refused",
         [] {
             rejected<SlabHeader>("slab", "foreign headers",
                                  {[](SlabHeader& h) { h.shape.magic ^= 1; }, [](SlabHeader& h) { h.shape.version += 1; },
                                   [](SlabHeader& h) { h.shape.abi ^= 1; }, [](SlabHeader& h) { h.shape.file_bytes += 1; },
                                   [](SlabHeader& h) { h.shape.join += 1; }, [](SlabHeader& h) { h.shape.number += 1; }});
             rejected<AcksShape>("acks", "foreign headers",
                                 {[](AcksShape& a) { a.magic = 0; }, [](AcksShape& a) { a.version = 0; },
                                  [](AcksShape& a) { a.abi = 0; }, [](AcksShape& a) { a.file_bytes = 0; },
                                  [](AcksShape& a) { a.join = 0; }, [](AcksShape& a) { a.number += 1; }});
         }},
        {"sizes that would lead out of the file are refused",
         [] {
             rejected<SlabHeader>(
                 "slab", "sizes",
                 {[](SlabHeader& h) { h.shape.capacity = 0; }, [](SlabHeader& h) { h.shape.capacity = ~0ull; },
                  [](SlabHeader& h) { h.shape.capacity = 1ull << 61; }, [](SlabHeader& h) { h.shape.capacity = 4096; },
                  [](SlabHeader& h) { h.shape.stride = 32; },  // smaller than a message
                  [](SlabHeader& h) { h.shape.stride = ~0ull; }, [](SlabHeader& h) { h.shape.stride = 1 << 20; },
                  [](SlabHeader& h) { h.shape.room = 65; }, [](SlabHeader& h) { h.shape.room = ~0ull; },
                  [](SlabHeader& h) { h.shape.room = 56; },  // smaller than a message, and there are no extents
                  [](SlabHeader& h) { h.shape.extent_stride = 1 << 20; }, [](SlabHeader& h) { h.shape.extent_offset = kHeaderBytes + 128; },
                  [](SlabHeader& h) { h.shape.dropped_offset = 1; },
                  [](SlabHeader& h) { h.shape.dropped_offset = 8; },
                  [](SlabHeader& h) { h.shape.dropped_offset = ~7ull; },
                  [](SlabHeader& h) { h.shape.remote_offset = 8; }, [](SlabHeader& h) { h.shape.remote_offset = kHeaderBytes + 65; },
                  [](SlabHeader& h) { h.shape.remote_offset = ~7ull; }, [](SlabHeader& h) { h.shape.remote_offset = h.shape.payload_offset; },
                  [](SlabHeader& h) { h.shape.payload_offset = 0; },
                  [](SlabHeader& h) { h.shape.payload_offset = ~0ull; },
                  [](SlabHeader& h) { h.shape.payload_offset = 1 << 16; },
                  [](SlabHeader& h) { h.shape.payload_offset += 8; },  // payloads would not be aligned
                  [](SlabHeader& h) { h.shape.stride += 8, h.shape.capacity /= 2; }});
             rejected<AcksShape>("acks", "sizes",
                                 {[](AcksShape& a) { a.rows = kMaxStages + 1; }, [](AcksShape& a) { a.rows = 32; },
                                  [](AcksShape& a) { a.row_bytes = 0; }, [](AcksShape& a) { a.row_bytes = 4097; },
                                  [](AcksShape& a) { a.row_bytes = 1ull << 62; }});
         }},
        {"extents that would lead out of their file are refused, and a slab whose extents are gone is gone",
         [] {
             rejected<SlabHeader>("slab", "sizes",
                                  {[](SlabHeader& h) { h.shape.extent_stride = 0; }, [](SlabHeader& h) { h.shape.extent_stride += 8; },
                                   [](SlabHeader& h) { h.shape.extent_stride = 1ull << 61; }, [](SlabHeader& h) { h.shape.extent_stride = ~63ull; },
                                   [](SlabHeader& h) { h.shape.extent_offset = 0; }, [](SlabHeader& h) { h.shape.extent_offset = 8; },
                                   [](SlabHeader& h) { h.shape.extent_offset += 4; }, [](SlabHeader& h) { h.shape.extent_offset = ~7ull; },
                                   [](SlabHeader& h) { h.shape.extent_offset = h.shape.payload_offset; },
                                   [](SlabHeader& h) { h.shape.room = 8, h.shape.extent_stride = 0; }},
                                  kWithExtents);
             rejected<SlabHeader>("slab", "extents that do not fit",
                                  {[](SlabHeader& h) { h.shape.extent_stride += 64; }, [](SlabHeader& h) { h.shape.extent_stride = 1ull << 40; }},
                                  kWithExtents);
             const Home home;
             const std::string file = home.path + "/" + kPrefix + "7.0.extents";
             const Slab made = create(home, kWithExtents);
             CHECK(static_cast<bool>(attach(home)));
             CHECK_EQ(::truncate(file.c_str(), 4096), 0);
             CHECK_THROWS(incompatible, "extents that do not fit", attach(home));
             CHECK_EQ(::unlink(file.c_str()), 0);
             CHECK(!attach(home));
         }},
        {"whatever stands in the word of an extent, it is not larger than its place",
         [] {
             const Home home;
             const auto storage = home.directory->storage("test", 1);
             const Slab made = create(home, kWithExtents);
             const Slab seen = attach(home);
             CHECK_EQ(made.extent_stride(), Slab::extent_pages(10'000));
             for (const uint64_t slot : {0, 7}) {
                 made.back_extent(*storage, slot, 10'000);
                 made.extents[slot].store(10'000, seq_cst);
                 std::memset(made.data(slot), 9, 10'000);
                 for (const uint64_t w : {uint64_t{1}, uint64_t{10'000}, uint64_t{10'000} | kGone, uint64_t{1ull << 62}, ~uint64_t{0}}) {
                     made.extents[slot].store(w, seq_cst);
                     CHECK(seen.room_of(slot) <= seen.extent_stride());
                     CHECK_EQ(static_cast<int>(seen.data(slot)[9'999]), 9);
                     CHECK(seen.data(slot)[seen.extent_stride() - 1] == std::byte{0});  // within the mapping
                 }
                 for (const uint64_t w : {uint64_t{0}, kGone}) {
                     made.extents[slot].store(w, seq_cst);
                     CHECK_EQ(seen.room_of(slot), 64u);
                     CHECK(seen.data(slot) == seen.at(slot));
                 }
             }
         }},
        {"private pages show the slot until they are written, and never write it",
         [] {
             const Home home;
             const Slab made = create(home, {8192, 8192, 4, 1, {}});
             const Slab seen = Slab::attach(*home.directory->storage("test", 1), kPlace, 8192, false, sys::Populate::yes);
             std::byte* const slot = made.at(2);
             for (const Slab* slab : {&made, &seen}) {
                 std::byte* own = nullptr;
                 const sys::Mapping pages = slab->private_pages(slab->at(2) + 100, 6000, own);
                 std::memset(slot, 1, 8192);
                 CHECK_EQ(static_cast<int>(own[0]), 1);
                 CHECK_EQ(static_cast<int>(own[5999]), 1);
                 own[0] = std::byte{7};
                 CHECK_EQ(static_cast<int>(slot[100]), 1);
                 slot[6099] = std::byte{3};
                 CHECK_EQ(static_cast<int>(own[5999]), 3);
             }
         }},
        {"a file that is cut short is refused",
         [] {
             for (const off_t size : {0, 100, 4096}) {
                 const Home home;
                 const Slab made = create(home);
                 CHECK_EQ(::truncate((home.path + "/" + kPrefix + "7.0.slab").c_str(), size), 0);
                 CHECK_THROWS(incompatible, "test.", attach(home));
             }
         }},
        {"a file of another owner's making is refused",
         [] {
             const Home home;
             const std::string name = home.path + "/" + kPrefix + "7.0.slab";
             {
                 const Slab made = create(home);
                 CHECK_EQ(::chmod(name.c_str(), 0644), 0);
                 CHECK_THROWS(incompatible, "private regular file", attach(home));
             }
             CHECK_EQ(::unlink(name.c_str()), 0);
             CHECK_EQ(::symlink("/etc/passwd", name.c_str()), 0);
             CHECK_THROWS(incompatible, "not a file of psyne's", attach(home));
             CHECK_EQ(::unlink(name.c_str()), 0);
             CHECK_EQ(::mkfifo(name.c_str(), 0600), 0);
             CHECK_THROWS(incompatible, "private regular file", attach(home));
         }},
    });
}
