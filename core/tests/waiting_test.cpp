#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(waiting_test) {
    return check::run({
        {"a publish wakes a receiver, an end wakes the sender",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 1});
             auto rx = receiver(home);
             std::thread reader = in_thread([&] {
                 for (uint64_t i = 0; i < 3; ++i) {
                     CHECK_EQ(receive_value(*rx), i);
                     until_asleep(senders_idle(tx->registry), 1);
                 }
                 receive_value(*rx);
                 receive_value(*rx);
             });
             for (uint64_t i = 0; i < 5; ++i) {
                 if (i == 0) until_asleep(idle(rx->registry), 1);
                 send_value(*tx, i);
             }
             reader.join();
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"the end of a message wakes the stage behind",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b", 1}}));
             auto a = receiver(home, "a"), b = receiver(home, "b");
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*b), 7u); });
             until_asleep(idle(b->registry, 1), 2);
             put(*tx, 7);
             const Taken t = take(*a);
             CHECK_EQ(idle(b->registry, 1).load(seq_cst), 2u);  // not by the publish
             a->end(t, true);
             reader.join();
             a->end(t, false);
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
        {"a wait ends at its deadline, not before it",
         [] {
             for (const Mode mode : {Mode::block, Mode::adaptive, Mode::spin}) {
                 Home home;
                 auto tx = sender(home, spec(), {.capacity = 1, .wait = mode});
                 auto rx = receiver(home, "", {.wait = mode});
                 Taken t;
                 const uint64_t start = sys::now_ns();
                 CHECK_EQ(rx->receive(1, t, start + 3'000'000, keep_going), Wait::timeout);
                 CHECK(sys::now_ns() - start >= 3'000'000);
                 CHECK_EQ(rx->receive(1, t, 0, keep_going), Wait::timeout);  // does not wait at all
                 put(*tx, 1);
                 Loan loan;
                 CHECK_EQ(tx->loan(1, loan, sys::now_ns() + 1'000'000, keep_going), Wait::timeout);
                 CHECK_EQ(tx->drain(sys::now_ns(), keep_going), Wait::timeout);
                 CHECK_EQ(rx->receive(1, t, 0, keep_going), Wait::ready);
                 CHECK_EQ(senders_idle(tx->registry).load(seq_cst), 0u);
             }
         }},
        {"close from another thread ends every wait",
         [] {
             for (const Mode mode : {Mode::block, Mode::spin}) {
                 Home home;
                 auto tx = sender(home, spec(), {.capacity = 1, .wait = mode});
                 auto rx = receiver(home, "", {.wait = mode});
                 std::thread reader = in_thread([&] {
                     Taken t;
                     CHECK_EQ(rx->receive(1, t, kForever, keep_going), Wait::stopped);
                 });
                 if (mode == Mode::block) until_asleep(idle(rx->registry), 1);
                 rx->stopping.store(true);
                 rx->registry.wake(rx->registry.id);
                 reader.join();
                 put(*tx, 1);
                 std::thread writer = in_thread([&] {
                     Loan loan;
                     CHECK_EQ(tx->loan(1, loan, kForever, keep_going), Wait::stopped);
                 });
                 if (mode == Mode::block) until_asleep(senders_idle(tx->registry), 1);
                 tx->stopping.store(true);
                 tx->registry.wake(tx->registry.id);
                 writer.join();
             }
         }},
        {"a tick that says no interrupts the wait",
         [] {
             for (const Mode mode : {Mode::block, Mode::spin}) {
                 Home home;
                 auto tx = sender(home);
                 auto rx = receiver(home, "", {.wait = mode});
                 Taken t;
                 CHECK_EQ(rx->receive(1, t, kForever, [] { return false; }), Wait::interrupted);
                 CHECK_EQ(idle(rx->registry).load(seq_cst), 0u);
             }
         }},
        {"a signal is looked at before the slice ends",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             static std::atomic<int> signals{0};
             struct sigaction act {};
             act.sa_handler = [](int) { signals.fetch_add(1); };
             ::sigaction(SIGUSR1, &act, nullptr);
             signals.store(0);
             const pthread_t self = ::pthread_self();
             std::atomic<bool> done{false};
             std::thread other = in_thread([&] {
                 while (!done.load()) {  // until one has met it asleep
                     until_asleep(idle(rx->registry), done.load() ? 0 : 1);
                     ::pthread_kill(self, SIGUSR1);
                     ::sched_yield();
                 }
             });
             Taken t;
             CHECK_EQ(rx->receive(1, t, kForever, [] { return signals.load() == 0; }), Wait::interrupted);
             done.store(true);
             idle(rx->registry).fetch_or(1);
             other.join();
             idle(rx->registry).fetch_and(~1ull);
         }},
        {"the last sender's close wakes receivers that wait",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc));
             auto a = receiver(home), b = receiver(home);
             std::vector<std::thread> threads;
             for (Receiver* r : {a.get(), b.get()})
                 threads.push_back(in_thread([r] {
                     Taken t;
                     CHECK_EQ(r->receive(1, t, kForever, keep_going), Wait::stopped);
                     CHECK(r->ended());
                 }));
             until_asleep(idle(tx->registry), 3);
             tx->close(false);
             for (auto& t : threads) t.join();
         }},
        {"the member that ends the last message lets the others see the end",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::mpmc));
             auto a = receiver(home), b = receiver(home);
             put(*tx, 1);
             const Taken t = take(*a);
             tx->close(false);
             std::thread other = in_thread([&] {
                 Taken none;
                 CHECK_EQ(b->receive(1, none, kForever, keep_going), Wait::stopped);
             });
             until_asleep(idle(tx->registry), 2);
             a->end(t, false);
             other.join();
         }},
        {"who waits for the next sender is woken when it joins",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             rx->follow = true;
             tx->close(false);
             leave(tx->registry);
             std::thread reader = in_thread([&] { CHECK_EQ(receive_value(*rx), 8u); });
             until_asleep(idle(rx->registry), 1);
             auto next = sender(home);
             put(*next, 8);
             reader.join();
         }},
        {"a killed member is buried by those that wait, and they get its message",
         [] {
             Home home;
             auto tx = sender(home, spec(Pattern::spmc));
             put(*tx, 6);
             Child gone([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(home);
                 take(*rx);
             });
             gone.wait_here();
             auto rx = receiver(home);
             gone.signal(SIGKILL);
             const Taken t = receive(*rx);
             CHECK_EQ(value_of(t), 6u);
             CHECK_EQ(t.deaths, 1u);
         }},
        {"a killed sender is buried by those that wait for it",
         [] {
             Home home;
             Child gone([&](Child&) {
                 static std::unique_ptr<Sender> tx;
                 tx = sender(home);
                 put(*tx, 6);
             });
             gone.wait_here();
             auto rx = receiver(home);
             gone.signal(SIGKILL);
             CHECK_EQ(receive_value(*rx), 6u);
             Taken t;
             CHECK_EQ(rx->receive(1, t, kForever, keep_going), Wait::stopped);
             CHECK(rx->sender_lost());
         }},
        {"an end that only polls buries the dead too",
         [] {
             Home home;
             Child gone([&](Child&) {
                 static std::unique_ptr<Sender> tx;
                 tx = sender(home);
             });
             gone.wait_here();
             auto rx = receiver(home);
             gone.signal(SIGKILL);
             while (!rx->ended_now()) CHECK(nothing(*rx));
             CHECK(rx->sender_lost());
         }},
        {"a member that lingers swallows no wake of its stage",
         [] {
             Home home;
             auto a = sender(home, spec(Pattern::mpmc)), b = sender(home, spec(Pattern::mpmc));
             auto lingers = receiver(home), waits = receiver(home);
             put(*a, 1);
             Taken t = take(*lingers, 8);
             std::thread lingering = in_thread([&] { CHECK(lingers->linger(t, 8, kForever, keep_going)); });
             std::thread waiting = in_thread([&] { CHECK_EQ(receive_value(*waits), 2u); });
             until_asleep(idle(a->registry), 2);
             put(*b, 2);
             waiting.join();
             lingers->stopping.store(true);
             lingering.join();
             CHECK_EQ(late_wakes(a->registry), 0u);
         }},
        {"a batch that waits for more slots than are free is no late wake",
         [] {
             Home home;
             auto tx = sender(home, spec(), {.capacity = 4});
             auto rx = receiver(home);
             for (int i = 0; i < 4; ++i) put(*tx, 0);
             take_value(*rx);
             Loan loan;
             CHECK_EQ(tx->loan(3, loan, sys::now_ns() + 250'000'000u, keep_going), Wait::timeout);
             CHECK_EQ(late_wakes(tx->registry), 0u);
         }},
    });
}
