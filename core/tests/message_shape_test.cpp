#include "links.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

bool fits(const MessageShape& s, std::initializer_list<uint64_t> dims, uint64_t given, uint64_t bytes = 0) {
    uint64_t total = 0;
    const bool fit = s.elements(std::data(dims), given, total);
    if (fit) CHECK_EQ(total, bytes);
    return fit;
}
void check_cannot_be(std::vector<MessageShape> shapes, const char* why) { CHECK_THROWS(invalid, why, MessageShapes(std::move(shapes))); }

}  // namespace

TESTS(message_shape_test) {
    return check::run({
        {"elements are within the type and within the room that is given, behind which the dimensions lie",
         [] {
             const MessageShape s = shaped(64, 2, 4);
             CHECK(fits(s, {4, 4}, 80, 64));
             CHECK(!fits(s, {4, 5}, 1000));
             CHECK(!fits(s, {4, 4}, 79));
             CHECK(fits(s, {2, 4}, 48, 32));
             CHECK(fits(s, {0, 4}, 16, 0));
             CHECK(!fits(s, {1, 1}, 8));
         }},
        {"a shape that numpy could not have is none, also where it has no elements",
         [] {
             const MessageShape s = shaped(64, 3, 4);
             const uint64_t huge = MessageShape::kMostBytes;
             CHECK(fits(s, {0, 5, 7}, 1000, 0));
             CHECK(!fits(s, {0, huge + 1, 1}, 1000));
             CHECK(!fits(s, {0, huge, 1}, 1000));          // 4 bytes each
             CHECK(!fits(s, {0, huge, huge}, 1000));       // their product does not fit a word
             CHECK(!fits(s, {1ull << 31, 1ull << 31, 1}, 1000));
             CHECK(!fits(s, {1ull << 32, 1ull << 30, 1}, 1000));  // 2^64 bytes look like none
         }},
        {"a time is that of the first sender, where a link has brought it",
         [] {
             Atomic64 here{1}, there{2};
             Slab s{};
             CHECK(clock_of(s) == nullptr);
             s.stamps = &here;
             CHECK(clock_of(s) == &here);
             s.remote = &there;
             CHECK(clock_of(s) == &there);
         }},
        {"a type is known by its whole word",
         [] {
             const MessageShapes one({rows(8, 3ull << 32)});
             CHECK(one.find(3ull << 32) && !one.find(0) && !one.find(3ull << 32 | 1) && !one.find(1));
             const MessageShapes two({rows(8, 0), rows(16, 1)});
             CHECK_EQ(two.find(1)->bytes, 16u);
             CHECK(!two.find(2));
             CHECK_EQ(two.most(), 16u);
         }},
        {"shapes that cannot be are refused",
         [] {
             const auto with = [](MessageShape s, auto&& change) {
                 change(s);
                 return s;
             };
             check_cannot_be({}, "got none");
             check_cannot_be({rows(MessageShape::kMostBytes + 1)}, "cannot be");
             check_cannot_be({shaped(8, MessageShape::kMostDims + 1, 1)}, "cannot be");
             check_cannot_be({shaped(8, 1, 0)}, "cannot be");
             check_cannot_be({columns(std::vector<uint64_t>(MessageShape::kMostColumns + 1, 0))}, "cannot be");
             check_cannot_be({columns({8}), rows(8)}, "cannot be");
             check_cannot_be({with(columns({8, 8}), [](MessageShape& s) { s.bytes = 17; })}, "cannot be");
             check_cannot_be({with(columns({8, 8}), [](MessageShape& s) { s.shaped = true; })}, "cannot be");
             check_cannot_be({with(columns({8, 8}), [](MessageShape& s) { s.columns[1].offset = 9; })}, "gaps");
             check_cannot_be({with(columns({8, 8}), [](MessageShape& s) { s.columns[0].bytes = ~0ull - 7, s.columns[1] = {~0ull - 7, 24}; })}, "gaps");
             MessageShapes({rows(MessageShape::kMostBytes)});
             MessageShapes({columns(std::vector<uint64_t>(MessageShape::kMostColumns, 1))});
         }},
    });
}
