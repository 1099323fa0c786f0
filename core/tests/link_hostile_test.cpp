// What a peer may send that is damaged or hostile: each is refused with a reason, nothing of it is delivered, and nothing
// else happens.
#include "links.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// A DATA frame whose numbers may be anything, and so many bytes of payload.
struct Data {
    Header header{Frame::data, 0, 1, 24 + 64, 0};
    DataHead head{0, 0, 0, 64};
    Bytes behind = Bytes(64);  // stamps, payload

    Bytes bytes() const {
        Bytes b(kHeader + kDataHead);
        header.encode(b.data());
        head.encode(b.data() + kHeader);
        b.insert(b.end(), behind.begin(), behind.end());
        return b;
    }
};
Bytes dims(std::initializer_list<uint64_t> n, size_t elements) {
    Bytes b(8 * n.size() + elements);
    std::memcpy(b.data(), std::data(n), 8 * n.size());
    return b;
}

/// A fresh incoming link refuses these bytes, and nothing of them was there.
void check_refused(const Kind& k, const Bytes& bytes, const std::string& why, uint64_t delivered = 0) {
    Home home;
    Far far(home, k);
    CHECK_THROWS(protocol, why, drink_all(far.in, bytes));
    far.in.disconnected();
    CHECK_EQ(far.in.next(), delivered);
    CHECK_EQ(far.tx->position(), delivered);
}
void check_taken(const Kind& k, const Bytes& bytes, uint64_t delivered) {
    Home home;
    Far far(home, k);
    drink_all(far.in, bytes);
    CHECK_EQ(far.in.next(), delivered);
}
const Kind kPlain{{rows(64)}, 8, 8};

/// An outgoing link that has sent four messages, of which the far end has three and has let go one.
struct Sent {
    Home home;
    std::unique_ptr<Sender> tx;
    std::unique_ptr<Receiver> rx;
    OutLink out;
    Sent() : tx(kPlain.sender(home, "near", 8, false)), rx(open_receiver(home.directory, "near", "", Spinner::Mode::block, "test")), out(*rx, kPlain.shapes) {
        out.connected(0, 8);
        for (uint64_t i = 0; i < 4; ++i) CHECK(send(kPlain, *tx, i));
        pour_all(out);
        ack(1, 3);
        CHECK_EQ(tx->occupied(), 3u);
    }
    void ack(uint64_t let_go, uint64_t received) { drink_all(out, frame({Frame::ack, 0, 0, 8, let_go}, received)); }
};

constexpr uint64_t kExtremes[] = {0,       1,        2,         7,          8,          63,         65,         4095,       4096,       4097,
                                  1 << 20, 1u << 31, ~0u - 1ull, ~0u,       1ull << 32, 1ull << 47, 1ull << 60, 1ull << 61, 1ull << 63, ~0ull - 63,
                                  ~0ull - 23, ~0ull - 1, ~0ull};

}  // namespace

TESTS(link_hostile_test) {
    return check::run({
        {"the frame that the others are variations of is taken", [] { check_taken(kPlain, Data{}.bytes(), 1); }},
        {"any number in any field is refused, or the one that is right",
         [] {
             for (const uint64_t x : kExtremes) {
                 Data d;
                 d.header.count = static_cast<uint32_t>(x);
                 if (d.header.count != 1) check_refused(kPlain, d.bytes(), "");
                 d = {}, d.header.length = x;
                 if (x != 24 + 64) check_refused(kPlain, d.bytes(), "");
                 d = {}, d.header.sequence = x;
                 if (x != 0) check_refused(kPlain, d.bytes(), "where message 0 was due");
                 d = {}, d.head.size = x;
                 if (x != 64) check_refused(kPlain, d.bytes(), "this type has 64");
                 d = {}, d.head.variant = x;
                 if (x != 0) check_refused(kPlain, d.bytes(), "which this channel does not have");
                 d = {}, d.header.flags = static_cast<uint16_t>(x);
                 if (d.header.flags != 0) check_refused(kPlain, d.bytes(), "");
                 d = {}, d.head.missed = static_cast<uint32_t>(x), d.head.checksum = static_cast<uint32_t>(x);
                 check_taken(kPlain, d.bytes(), 1);
             }
         }},
        {"two numbers that would fit each other if they did not overflow are refused",
         [] {
             for (const uint64_t size : kExtremes)
                 for (const uint64_t count : kExtremes)
                     for (const bool stamps : {false, true}) {
                         Data d;
                         d.header.count = static_cast<uint32_t>(count);
                         d.head.size = size;
                         d.header.flags = stamps ? kStamps : 0;
                         d.header.length = 24 + (stamps ? 8 * count : 0) + count * size;
                         if (size != 64 || count != 1) check_refused(kPlain, d.bytes(), "");
                     }
         }},
        {"a frame that is longer than agreed is refused before its body comes",
         [] {
             Home home;
             const Kind k = kPlain;
             Far far(home, k);
             Data d;
             d.header.count = 4096, d.header.length = 24 + 4096 * 64ull;
             InLink narrow(*far.tx, k.shapes, false, 1000);  // at least the largest message and some
             Bytes bytes = d.bytes();
             bytes.resize(kHeader);
             CHECK_THROWS(protocol, "is longer than 65600 bytes", drink_all(narrow, bytes));
         }},
        {"types that are not in the channel, and words that are nearly those of one",
         [] {
             const Kind k{{rows(64, 5ull << 32), rows(8, 1ull << 32 | 1)}, 8, 8};
             Data d;
             d.head.variant = 5ull << 32;
             check_taken(k, d.bytes(), 1);
             for (const uint64_t word : {0ull, 4ull << 32, 5ull << 32 | 1ull << 16, 5ull << 32 | 1, 5ull << 32 | 2, 5ull << 32 | 0xffff, ~0ull}) {
                 d.head.variant = word;
                 check_refused(k, d.bytes(), "which this channel does not have");
             }
             d.head.variant = 1ull << 32 | 1;
             check_refused(k, d.bytes(), "this type has 8");
         }},
        {"dimensions that do not fit the bytes, or the slot",
         [] {
             const Kind k{{shaped(64, 2, 4)}, 8, 8};
             const auto with = [](const Bytes& b) {
                 Data d;
                 d.behind = b;
                 d.head.size = b.size(), d.header.length = 24 + b.size();
                 return d;
             };
             check_taken(k, with(dims({2, 3}, 24)).bytes(), 1);
             check_taken(k, with(dims({4, 4}, 64)).bytes(), 1);
             check_taken(k, with(dims({0, 5}, 0)).bytes(), 1);
             for (const Data& d : {with(dims({2, 3}, 20)), with(dims({2, 3}, 28)), with(dims({~0ull, 1}, 24)), with(dims({1ull << 62, 1}, 0)),
                                   with(dims({1ull << 32, 1ull << 32}, 0)), with(dims({0, ~0ull}, 0)), with(dims({~0ull, ~0ull}, 4)), with(dims({0, 1ull << 48}, 0))})
                 check_refused(k, d.bytes(), "has dimensions");
             check_refused(k, with(dims({4, 5}, 80)).bytes(), "this type has 80 at most");
             check_refused(k, with(dims({1}, 0)).bytes(), "this type has 80 at most");  // not even dimensions
             Data two = with(dims({2, 3}, 24));
             two.header.count = 2, two.header.length = 24 + 2 * two.head.size;
             check_refused(k, two.bytes(), "this type has 80 at most");
         }},
        {"a payload that is not the one of its checksum is never there",
         [] {
             Kind k = kPlain;
             k.checksum = true;
             Data d;
             d.header.flags = kChecksum | kStamps;
             d.header.length += 8;
             d.behind.resize(72);
             d.head.checksum = crc32c(d.behind.data(), 72);
             check_taken(k, d.bytes(), 1);
             for (size_t at = 0; at < 72; ++at) {
                 Data bad = d;
                 bad.behind[at] ^= std::byte{1};
                 check_refused(k, bad.bytes(), "has the checksum");
             }
             d.header.flags = kStamps;
             check_refused(k, d.bytes(), "has no checksum");
             Data other;
             other.header.flags = kChecksum;
             check_refused(kPlain, other.bytes(), "nobody asked for");
         }},
        {"a frame that counts only as a whole is no more than half of a ring",
         [] {
             Kind k{{columns({32, 32})}, 8, 8};
             Data d;
             d.header.flags = kColumns;
             for (const uint32_t count : {4u, 5u}) {
                 d.header.count = count, d.header.length = 24 + count * 64;
                 d.behind = Bytes(count * 64);
                 if (count == 4) check_taken(k, d.bytes(), 4);
                 else check_refused(k, d.bytes(), "more than half of a ring of 8");
             }
             d.header.flags = 0;
             check_refused(k, d.bytes(), "in columns");
             d.header.flags = kChecksum;
             d.head.checksum = crc32c(d.behind.data(), d.behind.size());
             check_refused({{rows(64)}, 8, 8, true}, d.bytes(), "more than half of a ring of 8");
             d.header.flags = kColumns;
             check_refused(kPlain, d.bytes(), "");
         }},
        {"frames of the wrong side, of the handshake, and behind the end",
         [] {
             check_refused(kPlain, frame({Frame::ack, 0, 0, 8, 0}), "came from a sending side");
             check_refused(kPlain, frame({Frame::bye}), "came from a sending side");
             check_refused(kPlain, frame({Frame::leave}), "came from a sending side");
             for (const auto type : {Frame::hello, Frame::challenge, Frame::open, Frame::welcome})
                 check_refused(kPlain, frame({type}), "belongs to the handshake");
             check_refused(kPlain, frame({Frame::proof, 0, 0, 32, 0}), "belongs to the handshake");
             Bytes twice = frame({Frame::end, 0, 0, 1, 0});
             const Bytes again = twice;
             twice.insert(twice.end(), again.begin(), again.end());
             check_refused(kPlain, twice, "a second END");
             Bytes behind = again;
             const Bytes data = Data{}.bytes();
             behind.insert(behind.end(), data.begin(), data.end());
             check_refused(kPlain, behind, "came behind the END");
             for (const uint64_t x : kExtremes)
                 if (x != 0) check_refused(kPlain, frame({Frame::end, 0, 0, 1, x}), "messages, but 0 came");
             check_refused(kPlain, frame({Frame::end, 0, 0, 1, 0}, 2), "the reason 2");
             Sent a, b, c;
             CHECK_THROWS(protocol, "came from a receiving side", drink_all(a.out, Data{}.bytes()));
             CHECK_THROWS(protocol, "came from a receiving side", drink_all(b.out, frame({Frame::end, 0, 0, 1, 0})));
             CHECK_THROWS(protocol, "an end that was not sent", drink_all(c.out, frame({Frame::bye})));
         }},
        {"an ACK goes never back, nor beyond what was received and sent",
         [] {
             for (const uint64_t x : kExtremes) {
                 Sent a, b, c;
                 if (x > 4 || x < 3) CHECK_THROWS(protocol, "an ACK says", a.ack(1, x));
                 if (x > 3 || x < 1) CHECK_THROWS(protocol, "an ACK says", b.ack(x, 3));
                 if (x > 4 || x < 3) CHECK_THROWS(protocol, "an ACK says", c.ack(x, x));
                 CHECK_EQ(a.tx->occupied(), 3u);
             }
             Sent good;
             good.ack(3, 4);
             good.ack(4, 4);
             CHECK_EQ(good.tx->occupied(), 0u);
         }},
        {"what is let go in a frame that is not written yet stays until it is",
         [] {
             Sent s;
             for (uint64_t i = 4; i < 7; ++i) CHECK(send(kPlain, *s.tx, i));
             Bytes some;
             CHECK_EQ(pour(s.out, some, 100), 100u);
             s.ack(7, 7);  // it says so; but its bytes still lie here
             CHECK_EQ(s.out.let_go(), 4u);
             CHECK_EQ(s.tx->occupied(), 3u);
             pour_all(s.out);
             CHECK_EQ(s.out.let_go(), 7u);
             CHECK_EQ(s.tx->occupied(), 0u);
         }},
        {"a connection goes on where it can",
         [] {
             for (const uint64_t x : kExtremes) {
                 Sent s;
                 s.out.disconnected();
                 if (x < 3 || x > 4) CHECK_THROWS(protocol, "the peer goes on with message", s.out.connected(x, 8));
             }
             Sent s;
             s.out.disconnected();
             CHECK_THROWS(protocol, "no slots", s.out.connected(3, 0));
             s.out.connected(3, ~0ull);
             CHECK_EQ(Header::decode(pour_all(s.out).data()).sequence, 3u);
         }},
        {"no bytes at all, in any order and number, do more than end the connection",
         [] {
             Random random(5);
             const uint64_t rounds = long_run() ? 2'000'000 : 20'000;
             const Kind kinds[] = {kPlain, {{shaped(64, 2, 4)}, 8, 8}, {{columns({40, 24})}, 8, 8}, {{rows(64, 0), shaped(100, 1, 1, 1)}, 8, 8, true}};
             for (const Kind& k : kinds) {
                 Home home;
                 Far far(home, k);
                 uint64_t refused = 0;
                 for (uint64_t round = 0; round < rounds / 4; ++round) {
                     Data d;
                     d.header.sequence = far.in.next();
                     const MessageShape& shape = k.shapes[pick(random, k.shapes.size())];
                     d.head.variant = shape.variant;
                     const uint64_t elements = pick(random, 17);
                     d.head.size = shape.shaped ? shape.dims_bytes() + shape.element * elements : shape.bytes;
                     d.header.count = static_cast<uint32_t>(1 + pick(random, shape.shaped ? 1 : 3));
                     d.header.flags = static_cast<uint16_t>((k.checksum ? kChecksum : 0) | (shape.columns.empty() ? 0 : kColumns) | pick(random, 2));
                     d.header.length = kDataHead + d.header.count * (d.head.size + (d.header.flags & kStamps) * 8);
                     d.behind = Bytes(d.header.length - kDataHead);
                     for (std::byte& b : d.behind) b = static_cast<std::byte>(pick(random, 3) == 0 ? random() : 0);
                     std::byte* const own = d.behind.data() + (d.header.flags & kStamps) * 8;
                     for (uint32_t i = 0; i < shape.ndim && pick(random, 10); ++i) put(own + 8 * i, i == 0 ? elements : uint64_t{1});
                     if (pick(random, 3)) d.head.checksum = crc32c(d.behind.data(), d.behind.size());
                     Bytes bytes = pick(random, 20) ? d.bytes() : frame({Frame::ping, 0, 0, 8, 0});
                     if (pick(random, 4) == 0) {  // damaged, with a header that fits
                         const size_t at = pick(random, std::min<size_t>(bytes.size(), kHeader + kDataHead));
                         bytes[at] = static_cast<std::byte>(random());
                         put(bytes.data() + 12, uint32_t{0});
                         if (pick(random, 8)) put(bytes.data() + 12, crc32c(bytes.data(), kHeader));
                     }
                     const bool cut = pick(random, 10) == 0;
                     if (cut) bytes.resize(pick(random, bytes.size()));
                     bool over = cut;
                     try {
                         for (size_t at = 0; at < bytes.size();) at += drink(far.in, bytes.data() + at, bytes.size() - at, 1 + pick(random, 200));
                     } catch (const Error& e) {
                         CHECK_EQ(e.code, Errc::protocol);
                         ++refused, over = true;
                     }
                     if (over || pick(random, 10) == 0) far.in.disconnected(), far.in.connected();
                     if (over) CHECK_EQ(far.tx->position(), far.in.next());
                     Taken t;
                     while (far.rx->try_take(8, t)) far.rx->end(t, false);
                     pour_all(far.in);
                 }
                 CHECK(refused > rounds / 50 && far.in.next() > rounds / 50);
             }
         }},
        {"shapes that cannot be, and rings that cannot take them, are refused at once",
         [] {
             Home home;
             auto tx = kPlain.sender(home, "far", 8, true);
             MessageShape bad = columns({8, 8});
             bad.columns[1].offset = 4;
             CHECK_THROWS(invalid, "gaps", InLink(*tx, {bad}));
             bad = rows(8), bad.element = 0;
             CHECK_THROWS(invalid, "cannot be", InLink(*tx, {bad}));
             bad = rows(1ull << 50);
             CHECK_THROWS(invalid, "cannot be", InLink(*tx, {bad}));
             bad = shaped(8, 9, 1);
             CHECK_THROWS(invalid, "cannot be", InLink(*tx, {bad}));
             CHECK_THROWS(invalid, "got none", InLink(*tx, {}));
             CHECK_THROWS(invalid, "no room for messages of 65", InLink(*tx, {rows(65)}));
             put(*tx, 1);
             CHECK_THROWS(invalid, "has 1 messages", InLink(*tx, {rows(64)}));
             auto grows = open_sender(home.directory, "other", spec(), {64, 8, {}, Spinner::Mode::block, {1 << 20}}, "test");
             CHECK_THROWS(invalid, "does not grow", InLink(*grows, {rows(64)}));
         }},
    }, long_run() ? 3000 : 50);
}
