#include "support.hpp"

#include <psyne/net/outbox.hpp>

using namespace psyne;
using namespace psyne::test;
using namespace psyne::net;

namespace {

const std::byte kSome[100]{};

uint64_t gathered(const Outbox& box, size_t most, uint64_t bytes) {
    iovec pieces[Outbox::kPieces];
    uint64_t sum = 0;
    for (size_t n = box.gather(pieces, most, bytes), i = 0; i < n; ++i) sum += pieces[i].iov_len;
    return sum;
}

}  // namespace

TESTS(outbox_test) {
    return check::run({
        {"a frame fits where there is room for its pieces and for its heads",
         [] {
             Outbox box;
             CHECK(box.fits(Outbox::kPieces, Outbox::kHeads));
             CHECK(!box.fits(Outbox::kPieces + 1, 0));
             CHECK(!box.fits(0, Outbox::kHeads + 1));
             box.head(100);
             CHECK(!box.fits(Outbox::kPieces, 0) && box.fits(Outbox::kPieces - 1, Outbox::kHeads - 100));
             CHECK(!box.fits(1, Outbox::kHeads - 99));
         }},
        {"no more is gathered than was asked for",
         [] {
             Outbox box;
             for (int i = 0; i < 10; ++i) box.add(kSome, 100);
             CHECK_EQ(gathered(box, Outbox::kPieces, 1 << 20), 1000u);
             CHECK_EQ(gathered(box, 3, 1 << 20), 300u);
             CHECK_EQ(gathered(box, Outbox::kPieces, 250), 250u);
             iovec pieces[Outbox::kPieces];
             CHECK_EQ(box.gather(pieces, Outbox::kPieces, 200), 2u);
         }},
        {"no piece is of no bytes",
         [] {
             Outbox box;
             box.add(kSome, 0);
             CHECK(box.empty());
         }},
        {"a message is written with the last byte of its last piece",
         [] {
             Outbox box;
             uint64_t until = 0;
             box.head(10), box.add(kSome, 100), box.mark(7);
             box.head(10), box.mark(9);
             box.written(109, until);
             CHECK_EQ(until, 0u);
             box.written(1, until);
             CHECK_EQ(until, 7u);
             box.written(10, until);
             CHECK_EQ(until, 9u);
             uint64_t other = 0;
             box.add(kSome, 100), box.add(kSome, 100), box.add(kSome, 100);  // where marks were
             box.written(300, other);
             CHECK_EQ(other, 0u);
         }},
        {"what is all written leaves room for as much again",
         [] {
             Outbox box;
             uint64_t until = 0;
             for (int round = 0; round < 3; ++round) {
                 while (box.fits(1, 100)) box.head(100);
                 box.written(box.bytes(), until);
                 CHECK(box.empty() && box.fits(Outbox::kPieces, Outbox::kHeads));
             }
             box.head(100);
             box.clear();
             CHECK(box.empty() && box.bytes() == 0 && box.fits(Outbox::kPieces, Outbox::kHeads));
         }},
        {"more cannot be written than there is",
         [] {
             Outbox box;
             uint64_t until = 0;
             box.add(kSome, 100);
             CHECK_THROWS(invalid, "101 of 100", box.written(101, until));
             CHECK_EQ(gathered(box, Outbox::kPieces, 1 << 20), 100u);
         }},
    });
}
