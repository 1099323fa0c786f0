#include "stress.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(stress_graph) {
    // Bits of `after`: the stages of the list, from the lowest on.
    const std::vector<StageSpec> diamond = {{"change", 0, true}, {"left", 0b1}, {"right", 0b1}, {"join", 0b110, true}};
    const std::vector<StageSpec> branches = {{"left", 0}, {"right", 0}, {"further", 0b10}, {"join", 0b101, true}, {"end", 0b1000}};
    const std::vector<StageSpec> lens = {{"first", 0, true}, {"a", 0b1},    {"b", 0b1},    {"middle", 0b110, true},
                                         {"c", 0b1000},      {"d", 0b1000}, {"last", 0b110000, true}};
    return storms({
        {"spmc, a diamond, three members a stage, 7 slots", Pattern::spmc, 1, 3, diamond, 7, Mode::block, 8, 20},
        {"mpmc, a diamond, three members a stage, 32 slots", Pattern::mpmc, 2, 3, diamond, 32, Mode::adaptive, 8, 40},
        {"spsc, a diamond, one member a stage, one slot", Pattern::spsc, 1, 1, diamond, 1, Mode::block, 8, 10},
        {"mpmc, branches that join, three members a stage", Pattern::mpmc, 2, 3, branches, 16, Mode::block, 8, 20},
        {"spmc, two diamonds, three members a stage", Pattern::spmc, 1, 3, lens, 16, Mode::block, 8, 20},
    });
}
