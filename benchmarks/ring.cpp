// The floor under pipeline.py: four pinned processes in a ring share a frame and hand it on by a futex word per hop.
//
//   ring TRIPS BYTES PAUSE WORK CORE CORE CORE CORE
//
//   0 ──▶ 1 ──▶ 2 ──▶ 3 ──▶ 0     every process sleeps in FUTEX_WAIT until the word before it says the trip's number
//
// Process 0 sleeps for PAUSE microseconds first, so that all sleep. Each process is busy for WORK nanoseconds before it
// hands on; with 0, three hops are all there is. Prints nanoseconds from the stamp of process 0 to the end of process 3.
#include "bare.hpp"

namespace {

constexpr int kProcesses = 4;

struct Words {
    struct alignas(128) {  // neighbouring cache lines are fetched in pairs
        std::atomic<std::uint32_t> word;
    } handed_on[kProcesses];  // by process i: the number of the trip
};

}  // namespace

int main(int count, char** arguments) {
    if (count != 5 + kProcesses) {
        std::fprintf(stderr, "usage: ring TRIPS BYTES PAUSE WORK CORE CORE CORE CORE\n");
        return 2;
    }
    const auto trips = static_cast<std::uint32_t>(std::atoi(arguments[1]));
    const auto bytes = static_cast<std::size_t>(std::atoll(arguments[2]));
    const auto pause = static_cast<useconds_t>(std::atoi(arguments[3]));
    const std::int64_t work = std::atoll(arguments[4]);
    const std::uint32_t warm_up = trips / 10, all = trips + warm_up;
    alarm(120);  // a watchdog of its own

    auto* words = shared<Words>()->handed_on;
    void* frame = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (frame == MAP_FAILED) fail("mmap");
    auto* stamp = static_cast<volatile std::int64_t*>(frame);  // where capture writes it, too

    auto stage = [&](int i, auto&& ended) {
        for (std::uint32_t trip = 1; trip <= all; ++trip) {
            await(words[i - 1].word, trip, true);
            spin(work);
            ended(trip);
            publish(words[i].word, trip, true);
        }
    };
    const pid_t others[] = {
        start(std::atoi(arguments[5]),
              [&] {
                  for (std::uint32_t trip = 1; trip <= all; ++trip) {
                      if (trip > 1) await(words[kProcesses - 1].word, trip - 1, true);
                      usleep(pause);
                      *stamp = now();
                      spin(work);
                      publish(words[0].word, trip, true);
                  }
              }),
        start(std::atoi(arguments[6]), [&] { stage(1, [](std::uint32_t) {}); }),
        start(std::atoi(arguments[7]), [&] { stage(2, [](std::uint32_t) {}); }),
    };
    pin(std::atoi(arguments[8]));
    std::vector<double> times(all);
    stage(3, [&](std::uint32_t trip) { times[trip - 1] = static_cast<double>(now() - *stamp); });
    for (const pid_t other : others) finish(other);
    print_percentiles(std::move(times), warm_up);
}
