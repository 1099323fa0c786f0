#include "check.hpp"

int main(int count, char** names) {
    const auto& all = check::programs();
    const auto found = count == 2 ? all.find(names[1]) : all.end();
    if (found != all.end()) return found->second();
    std::fprintf(stderr, "usage: %s NAME, one of:\n", names[0]);
    for (const auto& [name, program] : all) std::fprintf(stderr, "  %s\n", name.c_str());
    return 2;
}
