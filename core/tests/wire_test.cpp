#include "payload.hpp"

#include <psyne/net/wire.hpp>

using namespace psyne;
using namespace psyne::test;
using namespace psyne::net;

namespace {

using HeaderBytes = std::array<std::byte, kHeader>;

HeaderBytes encoded(const Header& h) {
    HeaderBytes b;
    h.encode(b.data());
    return b;
}
template <class T>
HeaderBytes changed(HeaderBytes b, size_t at, T value) {
    put(b.data() + at, value);
    put(b.data() + 12, uint32_t{0});
    put(b.data() + 12, crc32c(b.data(), kHeader));
    return b;
}
Header decoded(const HeaderBytes& b) { return Header::decode(b.data()); }

const Header kData{Frame::data, kStamps | kChecksum, 7, 24 + 7 * 72, 1ull << 40};

}  // namespace

TESTS(wire_test) {
    return check::run({
        {"a header lies byte by byte as documented",
         [] {
             const HeaderBytes b = encoded({Frame::data, 3, 0x01020304, 0x1112131415161718, 0x2122232425262728});
             const unsigned char wanted[] = {0x50, 0x53, 0x59, 0x4e, 1, 16, 3, 0, 4, 3, 2, 1};
             CHECK_EQ(std::memcmp(b.data(), wanted, sizeof wanted), 0);
             const unsigned char rest[] = {0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21};
             CHECK_EQ(std::memcmp(b.data() + 16, rest, sizeof rest), 0);
             HeaderBytes zeroed = b;
             put(zeroed.data() + 12, uint32_t{0});
             CHECK_EQ(get<uint32_t>(b.data() + 12), crc32c(zeroed.data(), kHeader));
         }},
        {"what was encoded is decoded",
         [] {
             const Header h = decoded(encoded(kData));
             CHECK_EQ(h.type, kData.type);
             CHECK_EQ(h.flags, kData.flags);
             CHECK_EQ(h.count, kData.count);
             CHECK_EQ(h.length, kData.length);
             CHECK_EQ(h.sequence, kData.sequence);
             std::byte bytes[kDataHead];
             DataHead{1ull << 60 | 3, 0x80000001, 0xdeadbeef, 1ull << 47}.encode(bytes);
             const DataHead d = DataHead::decode(bytes);
             CHECK_EQ(d.variant, 1ull << 60 | 3);
             CHECK_EQ(d.missed, 0x80000001u);
             CHECK_EQ(d.checksum, 0xdeadbeefu);
             CHECK_EQ(d.size, 1ull << 47);
         }},
        {"a header in which any bit was flipped is refused",
         [] {
             for (size_t bit = 0; bit < 8 * kHeader; ++bit) {
                 HeaderBytes b = encoded(kData);
                 b[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
                 CHECK_THROWS(protocol, "", decoded(b));
             }
         }},
        {"other protocols and other versions are told from a damaged header",
         [] {
             HeaderBytes http{};
             std::memcpy(http.data(), "GET / HTTP/1.1\r\n", 16);
             CHECK_THROWS(protocol, "no frame of psyne: 47455420", decoded(http));
             CHECK_THROWS(protocol, "version 2", decoded(changed(encoded(kData), 4, uint8_t{2})));
             HeaderBytes damaged = encoded(kData);
             damaged[20] ^= std::byte{1};
             CHECK_THROWS(protocol, "checksum", decoded(damaged));
         }},
        {"only the types that there are",
         [] {
             for (unsigned type = 0; type < 256; ++type) {
                 if ((type >= 1 && type <= 6) || (type >= 16 && type <= 22)) continue;
                 CHECK_THROWS(protocol, "no frame of type", decoded(changed(encoded(kData), 5, static_cast<uint8_t>(type))));
             }
         }},
        {"each type has its limits of length, count, flags and sequence",
         [] {
             struct Limits {
                 Frame type;
                 uint64_t least, most;
                 bool sequence;
             };
             for (const Limits& l : {Limits{Frame::hello, 0, 1024, false}, {Frame::challenge, 0, 1024, false}, {Frame::proof, 32, 32, false},
                                     {Frame::open, 0, 1 << 20, false}, {Frame::welcome, 0, 1 << 20, false}, {Frame::refuse, 0, 65536, false},
                                     {Frame::data, 24, ~0ull, true}, {Frame::ack, 8, 8, true}, {Frame::ping, 8, 8, false},
                                     {Frame::pong, 8, 8, false}, {Frame::end, 1, 1, true}, {Frame::bye, 0, 0, false}, {Frame::leave, 0, 0, false}}) {
                 const uint32_t count = l.type == Frame::data;
                 decoded(encoded({l.type, 0, count, l.least, 0}));
                 decoded(encoded({l.type, 0, count, l.most, 0}));
                 if (l.least != 0) CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0, count, l.least - 1, 0})));
                 if (l.most != ~0ull) CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0, count, l.most + 1, 0})));
                 if (l.most != ~0ull) CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0, count, ~0ull, 0})));
                 if (l.sequence) CHECK_EQ(decoded(encoded({l.type, 0, count, l.least, ~0ull})).sequence, ~0ull);
                 else CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0, count, l.least, 1})));
                 CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0, count ? 0 : 1u, l.least, 0})));
                 CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0, count ? kMostMessages + 1 : ~0u, l.least, 0})));
                 CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, static_cast<uint16_t>(count ? 8 : 1), count, l.least, 0})));
                 CHECK_THROWS(protocol, "cannot be", decoded(encoded({l.type, 0x8000, count, l.least, 0})));
             }
             decoded(encoded({Frame::data, kStamps | kChecksum | kColumns, kMostMessages, 24, 0}));
         }},
    });
}
