// Convolutions in float32 for one machine: compiled where they run, for the vectors that its CPU has.
//
// Maps are (images, height, width, channels). Weights come in panels: as many output channels as two vectors hold, one
// panel after the other, the last one filled up with zeros; in a panel a row for each value that is summed over.

#include <algorithm>

#include "crew.h"

#if defined(GRAFT_LANES)
constexpr int kLanes = GRAFT_LANES;
#elif defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int kVectors = 2, kPanel = kLanes * kVectors;
// Rows of a product that are summed at a time: with two vectors each they fill 12 of 16 registers, or 24 of 32.
constexpr int kRows = kLanes == 16 ? 12 : 6;
// What is read again for each panel, and written beside what other panels write, in values: half of a second level of the
// cache.
constexpr long kKept = 64 * 1024;
// The same for what lies between the three steps of Winograd's way, in values, where there are few channels; and the fewest
// tiles of a piece: of fewer, all weights would be read again too often.
constexpr long kBetween = 128 * 1024;
constexpr long kFewest = 18;
// Weights are asked for so many values before they are needed: what a CPU fetches by itself ends with a page of memory.
constexpr long kAhead = 2048;
// Values from one of the 36 planes to the next are no power of two apart, or all would fall into the same lines of the cache.
constexpr long kApart = 16;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

static inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
static inline void store(float* to, Vector values) { *reinterpret_cast<Vector*>(to) = values; }

static long blocks(long count, long size) { return (count + size - 1) / size; }
// Rows that are summed at a time, of so many: nowhere are a few left over.
static long evenly(long count) { return blocks(count, std::max(blocks(count, kRows), 1L)); }
static long padded(long count, long size) { return blocks(count, size) * size; }

// What becomes of sums before they are written. (Handed on by value: what is written might lie in what a reference
// refers to, as far as the compiler knows.)
struct Finish {
  const float* bias;   // one value for each channel
  const float* added;  // maps of the same shape; null: nothing
  float low, high;     // what values are limited to

  // What `put` is going to need, while sums are still made of other values: rows lie too far apart for a CPU to see
  // by itself what comes next.
  inline void expect(int count, const float* to, long place, long apart) const {
    for (int r = 0; r < count; ++r, place += apart) {
      __builtin_prefetch(to + place, 1);
      if (added) __builtin_prefetch(added + place);
    }
  }

  inline Vector shift(long channel) const { return load(bias + channel); }

  inline void put(Vector value, Vector shift, float* to, long place) const {
    const Vector least = Vector{} + low, most = Vector{} + high;
    value += shift;
    if (added) value += load(added + place);
    // In this order a value that is no number stays so.
    value = value < least ? least : value;
    store(to + place, value > most ? most : value);
  }

  inline void put_one(float value, long channel, float* to, long place) const {
    value += bias[channel];
    if (added) value += added[place];
    value = value < low ? low : value;
    to[place] = value > high ? high : value;
  }
};

// R rows by one panel: sums over `taps` pieces of `depth` values that lie `step` apart, as rows that lie `apart`. It is
// a function of its own, or compilers have no registers left for it and keep the panel on the stack.
template <int R>
static __attribute__((noinline)) void sum(const float* const* rows, long taps, long step, long depth, const float* panel,
                                          float* to, long apart) {
  Vector sums[R][kVectors] = {};
  const float* at[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) at[r] = rows[r];
  for (long tap = 0; tap < taps; ++tap) {
    for (long d = 0; d < depth; ++d, panel += kPanel) {
      Vector right[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        right[v] = load(panel + v * kLanes);
        __builtin_prefetch(panel + kAhead + v * kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[r][v] += at[r][d] * right[v];
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) at[r] += step;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) store(to + r * apart + v * kLanes, sums[r][v]);
}

// The same for `count` rows, R at the most.
template <int R>
static inline void sum_of(int count, const float* const* rows, long taps, long step, long depth, const float* panel,
                          float* to, long apart) {
  if constexpr (R > 0) {
    if (count < R) return sum_of<R - 1>(count, rows, taps, step, depth, panel, to, apart);
    sum<R>(rows, taps, step, depth, panel, to, apart);
  }
}

// Six values by the transposed B of F(4, 3): Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).
static inline void into(const Vector* from, int apart, Vector* to, int step) {
  const Vector a = from[0], b = from[apart], c = from[2 * apart], d = from[3 * apart], e = from[4 * apart],
               f = from[5 * apart];
  const Vector even = e - 4.f * c, odd = d - 4.f * b, near = e - c, far = 2.f * (d - b);
  to[0] = 4.f * a - 5.f * c + e;
  to[step] = even + odd;
  to[2 * step] = even - odd;
  to[3 * step] = near + far;
  to[4 * step] = near - far;
  to[5 * step] = 4.f * b - 5.f * d + f;
}

// Six values by the transposed A.
static inline void back(const Vector* from, int apart, Vector* to, int step) {
  const Vector a = from[apart] + from[2 * apart], b = from[apart] - from[2 * apart],
               c = from[3 * apart] + from[4 * apart], d = from[3 * apart] - from[4 * apart];
  to[0] = from[0] + a + c;
  to[step] = b + 2.f * d;
  to[2 * step] = a + 4.f * c;
  to[3 * step] = b + 8.f * d + from[5 * apart];
}

// Maps as Winograd's way sees them: in tiles of 4 x 4 outputs, each of 6 x 6 inputs.
struct Tiles {
  long height, width, channels, padding;  // of the inputs
  long tall, wide, outputs;               // of the outputs
  long down, across;
};

// One tile of one vector of channels, of which there is nothing outside of the maps, as 36 planes.
template <bool is_whole>
static inline void read_tile(const float* from, const Tiles& tiles, long top, long left, float* to, long apart) {
  Vector half[36];
#pragma GCC unroll 6
  for (long j = 0; j < 6; ++j) {
    Vector column[6];
#pragma GCC unroll 6
    for (long i = 0; i < 6; ++i) {
      const bool is_inside = is_whole || (top + i >= 0 && top + i < tiles.height && left + j >= 0 &&
                                          left + j < tiles.width);
      column[i] = is_inside ? load(from + (i * tiles.width + j) * tiles.channels) : Vector{};
    }
    into(column, 1, half + j, 6);
  }
#pragma GCC unroll 6
  for (long i = 0; i < 6; ++i) {
    Vector row[6];
    into(half + 6 * i, 1, row, 1);
#pragma GCC unroll 6
    for (long j = 0; j < 6; ++j) store(to + (6 * i + j) * apart, row[j]);
  }
}

// Tiles from `first` on as 36 planes of `count` rows, `apart` from each other.
static void read_tiles(const float* maps, const Tiles tiles, long first, long count, float* to, long apart) {
  const long channels = tiles.channels;
  for (long tile = 0; tile < count; ++tile) {
    const long at = first + tile, image = at / (tiles.down * tiles.across);
    const long top = at / tiles.across % tiles.down * 4 - tiles.padding, left = at % tiles.across * 4 - tiles.padding;
    const float* const from = maps + ((image * tiles.height + top) * tiles.width + left) * channels;
    const bool is_whole = top >= 0 && top + 6 <= tiles.height && left >= 0 && left + 6 <= tiles.width;
    for (long channel = 0; channel < channels; channel += kLanes) {
      float* const there = to + tile * channels + channel;
      if (is_whole) read_tile<true>(from + channel, tiles, top, left, there, apart);
      else read_tile<false>(from + channel, tiles, top, left, there, apart);
    }
  }
}

// Each of 36 planes by its own weights, which lie `weights_apart` from each other: some of the panels.
static void multiply(const float* read, long read_apart, const float* weights, long weights_apart, long count,
                     long channels, long outputs, float* made, long made_apart) {
  const long together = evenly(count);
  for (long plane = 0; plane < 36; ++plane)
    for (long output = 0; output < outputs; output += kPanel) {
      const float* const ours = weights + plane * weights_apart + output * channels;
      for (long tile = 0; tile < count; tile += together) {
        const float* rows[kRows];
        for (long r = 0; r < kRows; ++r) rows[r] = read + plane * read_apart + (tile + r) * channels;
        sum_of<kRows>(int(std::min<long>(together, count - tile)), rows, 1, 0, channels, ours,
                      made + plane * made_apart + tile * outputs + output, outputs);
      }
    }
}

// Tiles from `first` on: their outputs from one to another, of planes of rows of `held`, `apart` from each other.
static void write_tiles(const float* made, long held, long apart, const Tiles tiles, long first, long count,
                        long from, long until, const Finish finish, float* to) {
  for (long tile = 0; tile < count; ++tile) {
    const long at = first + tile, image = at / (tiles.down * tiles.across);
    const long top = at / tiles.across % tiles.down * 4, left = at % tiles.across * 4;
    for (long output = from; output < until; output += kLanes) {
      Vector half[24];
      const float* const there = made + tile * held + output - from;
      const Vector shift = finish.shift(output);
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        Vector column[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) column[i] = load(there + (6 * i + j) * apart);
        back(column, 1, half + j, 6);
      }
      for (long i = 0; i < 4 && top + i < tiles.tall; ++i) {
        const long place = ((image * tiles.tall + top + i) * tiles.wide + left) * tiles.outputs + output;
        Vector row[4];
        back(half + 6 * i, 1, row, 1);
        if (left + 4 <= tiles.wide)
#pragma GCC unroll 4
          for (long j = 0; j < 4; ++j) finish.put(row[j], shift, to, place + j * tiles.outputs);
        else
          for (long j = 0; left + j < tiles.wide; ++j) finish.put(row[j], shift, to, place + j * tiles.outputs);
      }
    }
  }
}

// Maps as windows of any size and stride see them.
struct Windows {
  long height, width, channels;  // of the inputs
  long tall, wide, outputs;      // of the outputs
  long rows, columns, down, across;
};

// One panel of the outputs at places from `place` to `end`.
static void convolve(const float* maps, const Windows windows, const float* panel, long place, long end, long output,
                     const Finish finish, float* to) {
  const long channels = windows.channels, width = windows.width, apart = windows.outputs;
  const long together = evenly(end - place), vectors = std::min<long>(kVectors, (apart - output) / kLanes);
  const long rest = std::min<long>(kPanel, apart - output);
  long image = place / (windows.tall * windows.wide), y = place / windows.wide % windows.tall, x = place % windows.wide;
  for (; place < end; place += together) {
    const int count = int(std::min<long>(together, end - place));
    const float* rows[kRows];
    for (int r = 0; r < count; ++r) {
      rows[r] = maps + ((image * windows.height + y * windows.down) * width + x * windows.across) * channels;
      if (++x == windows.wide) x = 0, ++y;
      if (y == windows.tall) y = 0, ++image;
    }
    const long first = place * apart + output;
    finish.expect(count, to, first, apart);
    alignas(64) float sums[kRows * kPanel];
    sum_of<kRows>(count, rows, windows.rows, width * channels, windows.columns * channels, panel, sums, kPanel);
    for (long v = 0; v < vectors; ++v) {
      const Vector shift = finish.shift(output + v * kLanes);
      for (int r = 0; r < count; ++r)
        finish.put(load(sums + r * kPanel + v * kLanes), shift, to, first + r * apart + v * kLanes);
    }
    for (int r = 0; r < count; ++r)
      for (long i = vectors * kLanes; i < rest; ++i)
        finish.put_one(sums[r * kPanel + i], output + i, to, first + r * apart + i);
  }
}

// How Winograd's way is cut into pieces, each of which one thread does from maps to maps: to the caches of another core
// it may be as far as to memory, so what lies between the three steps stays in its own, or, where there are many channels,
// one plane of it.
struct Pieces {
  long tiles;    // of one piece, at the most
  long outputs;  // of one piece
};

static Pieces pieces(long all, long channels, long held, int hands) {
  const long fit = std::max(kBetween / (36 * (channels + held)), kFewest);
  // As many that to write and read what lies between takes as long as to read the weights.
  const long enough = std::max(fit, channels * held / (2 * (channels + held)));
  // As many for each thread.
  const long each = blocks(all, padded(blocks(all, padded(enough, kRows)), hands));
  if (hands == 1 || each >= kFewest) return {each, held};
  // Of so few tiles each thread does some outputs of all, or it would read all weights for a few.
  return {std::min(all, 2 * padded(fit, kRows)), padded(blocks(held, 2L * hands), kPanel)};
}

extern "C" {

int lanes() { return kLanes; }

int panel() { return kPanel; }

// Helpers for a thread: as many as `hands` with itself.
Crew* crew_of(int hands) { return new Crew(hands); }
void crew_wake(Crew* crew) { crew->wake(); }
void crew_sleep(Crew* crew) { crew->sleep(); }
long crew_helped(const Crew* crew) { return crew->helped(); }

// Values of scratch memory that `winograd` needs.
long winograd_room(long tiles, long channels, long outputs, const Crew* crew) {
  const int threads = crew ? crew->hands() : 1;
  const Pieces piece = pieces(tiles, channels, padded(outputs, kPanel), threads);
  return threads * 36 * (piece.tiles * (channels + piece.outputs) + 2 * kApart);
}

// 3 x 3, stride 1, in tiles of 4 x 4 outputs: 36 products in place of 144. `weights` are 36 times (channels x outputs)
// in panels; channels and outputs are multiples of the lanes.
void winograd(const float* maps, const float* weights, const float* bias, const float* added, float* to, float* scratch,
              long images, long height, long width, long channels, long outputs, long padding, float low, float high,
              Crew* crew) {
  const Finish finish{bias, added, low, high};
  const long tall = height + 2 * padding - 2, wide = width + 2 * padding - 2;
  const Tiles tiles{height, width, channels, padding, tall, wide, outputs, blocks(tall, 4), blocks(wide, 4)};
  const long all = images * tiles.down * tiles.across, held = padded(outputs, kPanel);
  const Pieces piece = pieces(all, channels, held, crew ? crew->hands() : 1);
  const long read_apart = piece.tiles * channels + kApart, made_apart = piece.tiles * piece.outputs + kApart;
  const long count = blocks(all, piece.tiles), parts = blocks(held, piece.outputs);
  long is_read[kMostHands];
  std::fill(is_read, is_read + kMostHands, -1);

  share(crew, count * parts, [=, &is_read](long number, int hand) {
    float* const read = scratch + 36 * hand * (read_apart + made_apart);
    float* const made = read + 36 * read_apart;
    const long one = number / parts, from = number % parts * piece.outputs;
    const long first = one * all / count, those = (one + 1) * all / count - first;
    const long panels = std::min(piece.outputs, held - from);
    if (is_read[hand] != one) read_tiles(maps, tiles, first, those, read, read_apart);
    is_read[hand] = one;
    multiply(read, read_apart, weights + from * channels, held * channels, those, channels, panels, made, made_apart);
    write_tiles(made, panels, made_apart, tiles, first, those, from, std::min(from + panels, outputs), finish, to);
  });
}

// Any window and stride, of maps that are padded already, to (images, tall, wide, outputs).
void direct(const float* maps, const float* weights, const float* bias, const float* added, float* to, long images,
            long height, long width, long channels, long tall, long wide, long outputs, long high_window,
            long wide_window, long down, long across, float low, float high, Crew* crew) {
  const Finish finish{bias, added, low, high};
  const Windows windows{height, width, channels, tall, wide, outputs, high_window, wide_window, down, across};
  const long depth = high_window * wide_window * channels, all = images * tall * wide;
  if (all <= 0) return;
  // All of about one size: a small one at the end would leave threads with nothing to do.
  const long most = std::max(kKept / (channels * down * across + outputs), 8L * kRows);
  const long chunk = padded(blocks(all, std::max(all / most, 1L)), kRows);
  const long chunks = blocks(all, chunk), panels = blocks(outputs, kPanel);

  share(crew, chunks * panels, [=](long number, int) {
    const long place = number / panels * chunk, output = number % panels * kPanel;
    convolve(maps, windows, weights + output * depth, place, std::min(all, place + chunk), output, finish, to);
  });
}
}
