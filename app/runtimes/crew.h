// Threads that help one other: while it passes an image they stay awake, as waking a core can take longer than what there
// is to do for it, and behind that they sleep.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

constexpr int kMostHands = 64;
constexpr long kPatience = 20000;

// Waits a moment; after many, others may have the core.
static inline void rest(long waited) {
  if (waited > kPatience) return std::this_thread::yield();
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Crew {
 public:
  // Of fewer hands where no more threads can be started. Not to be deleted, for they never end.
  explicit Crew(int hands) {
    try {
      for (; hands_ < std::min(hands, kMostHands); ++hands_) std::thread([this, hand = hands_] { help(hand); }).detach();
    } catch (const std::exception&) {  // there are too many threads already, or too little memory
    }
  }

  int hands() const { return hands_; }

  // Pieces that others than the one who shares them have done so far.
  long helped() const { return helped_.load(std::memory_order_relaxed); }

  void wake() {
    {
      const std::lock_guard<std::mutex> held(mutex_);
      awake_.store(true, std::memory_order_release);
    }
    woken_.notify_all();
  }

  void sleep() { awake_.store(false, std::memory_order_release); }

  // Calls `piece(number, hand)` for all numbers below `count`, and returns when all have been done. Each hand begins with
  // its own part of them, the same ones every time: what it made for one layer it reads for the next. Then it takes from
  // what others have left. To be called by one thread at a time.
  template <typename Piece>
  void share(long count, const Piece& piece) {
    const uint64_t turn = turn_.load(std::memory_order_relaxed) + 1;
    call_ = [](const void* piece, long number, int hand) { (*static_cast<const Piece*>(piece))(number, hand); };
    piece_ = &piece;
    done_.store(0, std::memory_order_relaxed);
    for (int hand = 0; hand < hands_; ++hand) {
      parts_[hand].end[turn % 2].store((hand + 1) * count / hands_, std::memory_order_relaxed);
      parts_[hand].next.store(turn << 32 | uint64_t(hand * count / hands_), std::memory_order_release);
    }
    turn_.store(turn, std::memory_order_release);
    work(uint32_t(turn), 0);
    for (long waited = 0; done_.load(std::memory_order_acquire) < count; ++waited) rest(waited);
  }

 private:
  struct alignas(64) Part {
    std::atomic<uint64_t> next{0};  // whose turn it is, and the number that is to be done next
    std::atomic<long> end[2]{};     // of this turn and of the one before
  };

  void help(int hand) {
    uint64_t seen = 0;
    while (true) {
      {
        std::unique_lock<std::mutex> held(mutex_);
        woken_.wait(held, [this] { return awake_.load(std::memory_order_relaxed); });
      }
      for (long waited = 0; awake_.load(std::memory_order_acquire); ++waited) {
        const uint64_t turn = turn_.load(std::memory_order_acquire);
        if (turn != seen) work(uint32_t(seen = turn), hand), waited = 0;
        else rest(waited);
      }
    }
  }

  void work(uint32_t turn, int hand) {
    for (int from = 0; from < hands_; ++from) {
      Part& part = parts_[(hand + from) % hands_];
      for (long number; (number = taken(part, turn)) >= 0;) {
        // Whoever has taken a piece keeps this turn from ending, so these are its own.
        call_(piece_, number, hand);
        if (hand > 0) helped_.fetch_add(1, std::memory_order_relaxed);
        done_.fetch_add(1, std::memory_order_release);
      }
    }
  }

  // The number of a piece that is left in `part` of this turn; -1: none. Whoever is a turn late, while the next one is
  // being prepared, finds the end of its own beside that of the next; whoever is later finds another turn in `next`.
  static long taken(Part& part, uint32_t turn) {
    uint64_t next = part.next.load(std::memory_order_acquire);
    while (uint32_t(next >> 32) == turn && long(uint32_t(next)) < part.end[turn % 2].load(std::memory_order_relaxed))
      if (part.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) return long(uint32_t(next));
    return -1;
  }

  int hands_ = 1;
  Part parts_[kMostHands];
  alignas(64) std::atomic<uint64_t> turn_{0};
  alignas(64) std::atomic<long> done_{0};
  alignas(64) std::atomic<long> helped_{0};
  alignas(64) std::atomic<bool> awake_{false};
  void (*call_)(const void*, long, int) = nullptr;
  const void* piece_ = nullptr;
  std::mutex mutex_;
  std::condition_variable woken_;
};

// The same where there may be no others.
template <typename Piece>
static void share(Crew* crew, long count, const Piece& piece) {
  if (crew != nullptr) return crew->share(count, piece);
  for (long number = 0; number < count; ++number) piece(number, 0);
}
