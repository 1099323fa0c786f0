#include <psyne/opening.hpp>

#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace psyne::test::growth {
namespace {

constexpr uint64_t kBudget = 64 << 20;

struct Growing {
    Home home;
    std::unique_ptr<Sender> tx;
    explicit Growing(uint64_t capacity = 8, Growth growth = {kBudget, 10'000'000}, Pattern p = Pattern::mpmc, std::vector<StageSpec> stages = {{"main"}}) {
        SenderOptions o{64, capacity, {}, Spinner::Mode::block, growth, 0, 8};
        tx = open_sender(home.directory, "test", {"u8", 64, p, std::move(stages)}, o, "test");
    }
    auto rx(const char* stage = "") { return open_receiver(home.directory, "test", stage, Spinner::Mode::block, "test"); }
};

template <class F>
void wait_until(F&& f) {
    for (const uint64_t end = sys::now_ns() + 20'000'000'000; !f();) {
        CHECK(sys::now_ns() < end);
        ::usleep(1000);
    }
}

}  // namespace

TESTS(growth_test) {
    return check::run({
        {"a ring that is full goes on in a larger one, and nothing is lost",
         [] {
             Growing c;
             auto rx = c.rx();
             for (uint64_t n = 0; n < 1000; ++n) send_value(*c.tx, n);
             CHECK(c.tx->growth().grown >= 6);
             CHECK(c.tx->capacity() >= 512);
             for (uint64_t n = 0; n < 1000; ++n) CHECK_EQ(receive_value(*rx), n);
             CHECK(nothing(*rx));
             goodbye(c.tx), goodbye(rx);
         }},
        {"after low load the ring is small again, and the memory is given back",
         [] {
             Growing c;
             auto rx = c.rx();
             const size_t files = c.home.files().size();
             for (uint64_t n = 0; n < 10'000; ++n) send_value(*c.tx, n);
             const uint64_t most = c.tx->growth().reserved;
             for (uint64_t n = 0; n < 10'000; ++n) CHECK_EQ(receive_value(*rx), n);
             wait_until([&] { return c.tx->capacity() == 8 && c.tx->growth().slabs == 1; });
             CHECK(c.tx->growth().shrunk >= 1);
             CHECK(c.tx->growth().reserved < most);
             CHECK_EQ(c.home.files().size(), files);
             send_value(*c.tx, 7);
             CHECK_EQ(receive_value(*rx), 7u);
             goodbye(c.tx), goodbye(rx);
         }},
        {"beyond its budget the ring waits, and says why",
         [] {
             Growing c(8, {512 * 1024, 1'000'000'000});
             auto rx = c.rx();
             Loan loan;
             uint64_t sent = 0;
             while (c.tx->loan(1, loan, sys::now_ns() + 50'000'000, keep_going) == Wait::ready) {
                 write_value(loan, *c.tx, 0, sent++);
                 c.tx->commit(loan, 1);
             }
             CHECK(c.tx->why_full().find("budget=524288") != std::string::npos);
             CHECK(c.tx->growth().reserved <= 512 * 1024);
             for (uint64_t n = 0; n < sent; ++n) CHECK_EQ(receive_value(*rx), n);
             goodbye(c.tx), goodbye(rx);
         }},
    });
}

}  // namespace psyne::test::growth
