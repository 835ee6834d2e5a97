// Shares out turns of few pieces, one right after the other, for the seconds and among the hands that are given, within so
// many bytes of memory if they are given; fails where a piece is done twice, not at all, or after its turn has ended.

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include <sys/resource.h>

#include "crew.h"

int main(int count, char** given) {
  if (count > 3) {
    const rlim_t bytes = std::atol(given[3]);
    const rlimit limit{bytes, bytes};
    setrlimit(RLIMIT_AS, &limit);
  }
  const double seconds = std::atof(given[1]);
  Crew* const crew = new Crew(std::atoi(given[2]));
  constexpr int kMost = 40;
  std::atomic<int> done[kMost]{}, wrong{0}, late{0};
  std::atomic<bool> is_open{false};
  const auto start = std::chrono::steady_clock::now();
  long turns = 0;
  crew->wake();
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++turns) {
    // Few and then many, so that whoever is a turn or two late finds more to do than there was.
    const int sizes[] = {crew->hands(), kMost, 7}, size = sizes[turns / 1000 % 2 ? turns % 2 : turns % 3];
    is_open = true;
    crew->share(size, [&](long number, int) {
      if (!is_open) ++late;
      ++done[number];
    });
    is_open = false;
    for (int number = 0; number < kMost; ++number)
      if (done[number].exchange(0) != (number < size)) ++wrong;
    if (turns % 1000 == 0) crew->sleep(), crew->wake();
  }
  std::printf("turns %ld helped %ld wrong %d late %d\n", turns, crew->helped(), wrong.load(), late.load());
  std::fflush(stdout);
  std::_Exit(wrong || late ? 1 : 0);
}
