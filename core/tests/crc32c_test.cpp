#include "payload.hpp"

#include <psyne/net/crc32c.hpp>

using namespace psyne;
using namespace psyne::test;
using net::crc32c;

namespace {

std::vector<std::byte> bytes_of(const std::string& text) {
    std::vector<std::byte> bytes(text.size());
    if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
}
/// From the definition: bit by bit.
uint32_t by_bits(const std::byte* data, size_t n) {
    uint32_t sum = ~0u;
    for (size_t i = 0; i < n; ++i) {
        sum ^= static_cast<uint32_t>(data[i]);
        for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0x82f63b78u : 0);
    }
    return ~sum;
}
uint32_t by_tables(const std::byte* data, size_t n) { return ~net::crc::by_tables(data, n, ~0u); }

}  // namespace

TESTS(crc32c_test) {
    return check::run({
        {"it has the published sums",
         [] {
             const auto sum = [](const std::vector<std::byte>& b) { return crc32c(b.data(), b.size()); };
             CHECK_EQ(sum(bytes_of("")), 0u);
             CHECK_EQ(sum(bytes_of("123456789")), 0xe3069283u);
             CHECK_EQ(sum(std::vector<std::byte>(32, std::byte{0})), 0x8a9136aau);
             CHECK_EQ(sum(std::vector<std::byte>(32, std::byte{0xff})), 0x62a8ab43u);
             std::vector<std::byte> rising;
             for (unsigned i = 0; i < 32; ++i) rising.push_back(static_cast<std::byte>(i));
             CHECK_EQ(sum(rising), 0x46dd794eu);
         }},
        {"processor and tables agree with the definition for every length and place",
         [] {
             Random random(1);
             std::vector<std::byte> bytes(600);
             for (std::byte& b : bytes) b = static_cast<std::byte>(pick(random, 256));
             for (size_t from = 0; from < 9; ++from)
                 for (size_t n = 0; n < 200; ++n) {
                     const uint32_t wanted = by_bits(bytes.data() + from, n);
                     CHECK_EQ(crc32c(bytes.data() + from, n), wanted);
                     CHECK_EQ(by_tables(bytes.data() + from, n), wanted);
                 }
         }},
        {"the sum of parts is the sum of the whole",
         [] {
             Random random(2);
             std::vector<std::byte> bytes(600);
             for (std::byte& b : bytes) b = static_cast<std::byte>(pick(random, 256));
             for (int round = 0; round < 1000; ++round) {
                 const size_t a = pick(random, 600), b = a + pick(random, 600 - a);
                 const uint32_t first = crc32c(bytes.data(), a), both = crc32c(bytes.data() + a, b - a, first);
                 CHECK_EQ(both, crc32c(bytes.data(), b));
             }
         }},
    });
}
