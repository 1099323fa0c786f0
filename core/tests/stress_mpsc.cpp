#include "stress.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(stress_mpsc) {
    const std::vector<StageSpec> one = {{"main"}}, chain = {{"change", 0, true}, {"read", 1}};
    return storms({
        {"mpsc, two senders, one slot each, sleeping", Pattern::mpsc, 2, 1, one, 1, Mode::block, 8, 10},
        {"mpsc, two senders, 64 slots, adaptive", Pattern::mpsc, 2, 1, one, 64, Mode::adaptive},
        {"mpsc, two senders, 64 slots, spinning", Pattern::mpsc, 2, 1, one, 64, Mode::spin, 8, 30},
        {"mpsc, four senders, 5 slots, sleeping", Pattern::mpsc, 4, 1, one, 5, Mode::block, 8, 40},
        {"mpsc, two senders and a chain, adaptive", Pattern::mpsc, 2, 1, chain, 16, Mode::adaptive, 8, 40},
        {"mpsc, two senders and a chain, pages, sleeping", Pattern::mpsc, 2, 1, chain, 8, Mode::block, 512, 5},
    });
}
