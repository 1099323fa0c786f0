// An end has one user, but what it gave out is ended by other threads too, while the user waits inside: the last view
// goes away in a garbage collector, a loan is sent by a worker.
#include <condition_variable>
#include <deque>

#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

constexpr uint64_t kValues = kSanitized ? 20'000 : 100'000;

/// Hands things from one thread to another.
template <class T>
class Queue {
public:
    void put(T value) {
        {
            std::lock_guard guard(lock_);
            items_.push_back(std::move(value));
        }
        there_.notify_one();
    }
    T take() {
        std::unique_lock guard(lock_);
        there_.wait(guard, [&] { return !items_.empty(); });
        T value = std::move(items_.front());
        items_.pop_front();
        return value;
    }

private:
    std::mutex lock_;
    std::condition_variable there_;
    std::deque<T> items_;
};

}  // namespace

TESTS(threads_test) {
    return check::run({
        {"messages are ended by another thread while the receiver waits, over many lanes that come and go",
         [] {
             Home home;
             auto keeper = sender(home);
             auto rx = receiver(home);
             Queue<Taken> views;
             std::thread sends = in_thread([&] {
                 for (uint64_t i = 0; i < kValues;) {
                     auto tx = sender(home, spec(), {.capacity = 4});
                     for (uint64_t k = 0; k < 500 && i < kValues; ++k) send_value(*tx, i++);
                     CHECK_EQ(tx->drain(kForever, keep_going), Wait::ready);
                     goodbye(tx);
                 }
             });
             std::thread ends = in_thread([&] {
                 for (uint64_t n = 0; n < kValues; ++n) {
                     const Taken t = views.take();
                     CHECK_EQ(value_of(t), n);
                     if (n % 3 == 0) rx->end(t, true);
                     rx->end(t, false);
                 }
             });
             for (uint64_t n = 0; n < kValues; ++n) {
                 views.put(receive(*rx));
                 if (n % 1000 == 0) rx->look_after_others();
             }
             sends.join(), ends.join();
             CHECK_EQ(rx->outstanding(), 0u);
             rx->look_after_others();
             CHECK_EQ(rx->lanes().size(), 1u);
         }},
        {"loans are sent and taken back by another thread while the sender waits",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 8});
             auto rx = receiver(home);
             Queue<Loan> loans;
             std::thread commits = in_thread([&] {
                 for (uint64_t n = 0; n < kValues; ++n) {
                     const Loan loan = loans.take();
                     write_value(loan, *tx, 0, n);
                     if (n % 5 == 0) tx->discard(loan, true);  // pinned: the sender is inside
                     else tx->commit(loan, 1, true);
                 }
             });
             std::thread reads = in_thread([&] {
                 for (uint64_t n = 0; n < kValues; ++n)
                     if (n % 5 != 0) CHECK_EQ(receive_value(*rx), n);
             });
             for (uint64_t n = 0; n < kValues; ++n) {
                 Loan loan;
                 CHECK_EQ(tx->loan(1, loan, kForever, keep_going), Wait::ready);
                 CHECK_EQ(loan.position, n);
                 loans.put(loan);
             }
             commits.join(), reads.join();
         }},
        {"loans that were held back are published and withdrawn by another thread while the ring grows and shrinks",
         [] {
             Home home;
             auto tx = open_sender(home.directory, "test", spec(),
                                   {64, 8, {}, Spinner::Mode::block, {1 << 20, 1'000'000}, 0, 8}, "test");
             auto rx = receiver(home);
             Queue<Loan> loans;
             std::thread publishes = in_thread([&] {
                 for (uint64_t n = 0; n < kValues; ++n) {
                     const Loan loan = loans.take();
                     if (n % 5 == 0) tx->withdraw(loan);
                     else tx->publish(loan);
                 }
             });
             std::thread reads = in_thread([&] {
                 for (uint64_t n = 0; n < kValues; ++n) {
                     if (n % 5 != 0) CHECK_EQ(receive_value(*rx), n);
                     if (n % 4096 == 0) ::usleep(20'000);  // now it has to grow, now it may shrink
                 }
             });
             for (uint64_t n = 0; n < kValues; ++n) {
                 Loan loan;
                 CHECK_EQ(tx->loan(1, loan, kForever, keep_going), Wait::ready);
                 CHECK_EQ(loan.position, n);
                 write_value(loan, *tx, 0, n);
                 CHECK_EQ(tx->hold_back(loan, 1, false), 0u);
                 loans.put(loan);
             }
             publishes.join(), reads.join();
             CHECK(tx->growth().grown > 0);
         }},
        {"what is left of a batch that was held back is lent again, and its drops are known",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.count_dropped = true});
             auto rx = receiver(home);
             Loan loan;
             CHECK(tx->try_loan(4, loan));
             for (uint64_t i = 0; i < 2; ++i) write_value(loan, *tx, i, i);
             tx->drop(3);
             CHECK_EQ(tx->hold_back(loan, 2, false), 3u);
             send_value(*tx, 2);
             CHECK(nothing(*rx));
             tx->publish(loan);
             for (uint64_t n = 0; n < 3; ++n) CHECK_EQ(receive_value(*rx), n);
             CHECK_EQ(tx->position(), 3u);
         }},
        {"an own view keeps its slot until another thread lets it go",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 2});
             auto rx = receiver(home);
             Queue<Loan> views;
             std::thread reads = in_thread([&] {
                 for (uint64_t n = 0; n < kValues / 4; ++n) CHECK_EQ(receive_value(*rx), n);
             });
             std::thread holds = in_thread([&] {
                 for (uint64_t n = 0; n < kValues / 4; ++n) {
                     const Loan view = views.take();
                     uint64_t value;
                     std::memcpy(&value, view.data, 8);
                     CHECK_EQ(value, n);  // not overwritten while it is held
                     view.ring->unhold(view.slot);
                 }
             });
             for (uint64_t n = 0; n < kValues / 4; ++n) {
                 Loan loan;
                 Wait w;
                 while ((w = tx->loan(1, loan, kForever, keep_going)) == Wait::stopped) ::sched_yield();  // own view
                 CHECK_EQ(w, Wait::ready);
                 write_value(loan, *tx, 0, n);
                 loan.ring->hold(loan.slot);
                 tx->commit(loan, 1);
                 views.put(loan);
             }
             reads.join(), holds.join();
         }},
    });
}
