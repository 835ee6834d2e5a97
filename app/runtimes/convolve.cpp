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
// The same for what lies between the three steps of Winograd's way, in values; of fewer tiles, all weights would be
// read again too often.
constexpr long kBetween = 128 * 1024;
constexpr long kFewest = 18;
// Values from one of the 36 planes to the next are no power of two apart, or all would fall into the same lines of the cache.
constexpr long kApart = 16;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

static inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
static inline void store(float* to, Vector values) { *reinterpret_cast<Vector*>(to) = values; }

static long blocks(long count, long size) { return (count + size - 1) / size; }
static long padded(long count, long size) { return blocks(count, size) * size; }

// What becomes of sums before they are written. (Handed on by value: what is written might lie in what a reference
// refers to, as far as the compiler knows.)
struct Finish {
  const float* bias;   // one value for each channel
  const float* added;  // maps of the same shape; null: nothing
  float low, high;     // what values are limited to

  // What `write` is going to need, while sums are still made of other values: rows lie too far apart for a CPU to see
  // by itself what comes next.
  inline void expect(int count, const float* to, long place, long apart) const {
    for (int r = 0; r < count; ++r, place += apart) {
      __builtin_prefetch(to + place, 1);
      if (added) __builtin_prefetch(added + place);
    }
  }

  // R vectors, to places that are `apart` from each other.
  template <int R>
  inline void write(const Vector* values, int step, long channel, float* to, long place, long apart) const {
    const Vector shift = load(bias + channel), least = Vector{} + low, most = Vector{} + high;
    for (int r = 0; r < R; ++r, place += apart) {
      Vector value = values[r * step] + shift;
      if (added) value += load(added + place);
      // In this order a value that is no number stays so.
      value = value < least ? least : value;
      store(to + place, value > most ? most : value);
    }
  }

  inline void write_one(float value, long channel, float* to, long place) const {
    value += bias[channel];
    if (added) value += added[place];
    value = value < low ? low : value;
    to[place] = value > high ? high : value;
  }
};

struct AsItIs {
  inline void expect(int, const float*, long, long) const {}

  template <int R>
  inline void write(const Vector* values, int step, long, float* to, long place, long apart) const {
    for (int r = 0; r < R; ++r) store(to + place + r * apart, values[r * step]);
  }

  inline void write_one(float value, long, float* to, long place) const { to[place] = value; }
};

// R rows by one panel: sums over `taps` pieces of `depth` values that lie `step` apart.
template <int R>
static inline void sum(const float* const* rows, long taps, long step, long depth, const float* panel,
                       Vector (&sums)[R][kVectors]) {
  for (long tap = 0; tap < taps; ++tap) {
    const float* at[R];
    for (int r = 0; r < R; ++r) at[r] = rows[r] + tap * step;
    for (long d = 0; d < depth; ++d, panel += kPanel) {
      Vector right[kVectors];
      for (int v = 0; v < kVectors; ++v) right[v] = load(panel + v * kLanes);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < kVectors; ++v) sums[r][v] += at[r][d] * right[v];
    }
  }
}

// The same for `count` rows, R at the most, which are written as rows of `channels` values from `channel` on.
template <int R, typename End>
static inline void product(int count, const float* const* rows, long taps, long step, long depth, const float* panel,
                           const End end, long channel, long channels, long row, float* to) {
  if constexpr (R > 0) {
    if (count < R) return product<R - 1>(count, rows, taps, step, depth, panel, end, channel, channels, row, to);
    Vector sums[R][kVectors] = {};
    end.expect(R, to, row * channels + channel, channels);
    sum<R>(rows, taps, step, depth, panel, sums);
    for (int v = 0; v < kVectors; ++v) {
      const long from = channel + v * kLanes, place = row * channels + from;
      if (from + kLanes <= channels) {
        end.template write<R>(&sums[0][v], kVectors, from, to, place, channels);
        continue;
      }
      for (int r = 0; r < R; ++r)
        for (long i = 0; from + i < channels; ++i)
          end.write_one(sums[r][v][i], from + i, to, place + r * channels + i);
    }
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

// Tiles from `first` on as 36 planes of `count` rows, `apart` from each other.
static void read_tiles(const float* maps, const Tiles tiles, long first, long count, float* to, long apart) {
  const long channels = tiles.channels;
  for (long tile = 0; tile < count; ++tile) {
    const long at = first + tile, image = at / (tiles.down * tiles.across);
    const long top = at / tiles.across % tiles.down * 4 - tiles.padding, left = at % tiles.across * 4 - tiles.padding;
    const float* const from = maps + ((image * tiles.height + top) * tiles.width + left) * channels;
    const bool is_whole = top >= 0 && top + 6 <= tiles.height && left >= 0 && left + 6 <= tiles.width;
    for (long channel = 0; channel < channels; channel += kLanes) {
      Vector values[36], half[36];
      for (long i = 0; i < 6; ++i)
        for (long j = 0; j < 6; ++j) {
          const bool is_inside = is_whole || (top + i >= 0 && top + i < tiles.height && left + j >= 0 &&
                                              left + j < tiles.width);
          values[6 * i + j] = is_inside ? load(from + (i * tiles.width + j) * channels + channel) : Vector{};
        }
      for (int j = 0; j < 6; ++j) into(values + j, 6, half + j, 6);
      for (int i = 0; i < 6; ++i) into(half + 6 * i, 1, values + 6 * i, 1);
      for (int i = 0; i < 36; ++i) store(to + i * apart + tile * channels + channel, values[i]);
    }
  }
}

// Each of 36 planes by its own weights, which lie `weights_apart` from each other: some of the panels.
static void multiply(const float* read, long read_apart, const float* weights, long weights_apart, long count,
                     long channels, long outputs, float* made, long made_apart) {
  for (long plane = 0; plane < 36; ++plane)
    for (long output = 0; output < outputs; output += kPanel) {
      const float* const ours = weights + plane * weights_apart + output * channels;
      for (long tile = 0; tile < count; tile += kRows) {
        const float* rows[kRows];
        for (long r = 0; r < kRows; ++r) rows[r] = read + plane * read_apart + (tile + r) * channels;
        product<kRows>(int(std::min<long>(kRows, count - tile)), rows, 1, 0, channels, ours, AsItIs{}, output, outputs,
                       tile, made + plane * made_apart);
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
      Vector values[36], half[24], found[16];
      for (int i = 0; i < 36; ++i) values[i] = load(made + i * apart + tile * held + output - from);
      for (int j = 0; j < 6; ++j) back(values + j, 6, half + j, 6);
      for (int i = 0; i < 4; ++i) back(half + 6 * i, 1, found + 4 * i, 1);
      for (long i = 0; i < 4 && top + i < tiles.tall; ++i) {
        const long place = ((image * tiles.tall + top + i) * tiles.wide + left) * tiles.outputs + output;
        if (left + 4 <= tiles.wide) finish.write<4>(found + 4 * i, 1, output, to, place, tiles.outputs);
        else
          for (long j = 0; left + j < tiles.wide; ++j)
            finish.write<1>(found + 4 * i + j, 1, output, to, place + j * tiles.outputs, tiles.outputs);
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
  const long channels = windows.channels, width = windows.width;
  long image = place / (windows.tall * windows.wide), y = place / windows.wide % windows.tall, x = place % windows.wide;
  for (; place < end; place += kRows) {
    const int count = int(std::min<long>(kRows, end - place));
    const float* rows[kRows];
    for (int r = 0; r < count; ++r) {
      rows[r] = maps + ((image * windows.height + y * windows.down) * width + x * windows.across) * channels;
      if (++x == windows.wide) x = 0, ++y;
      if (y == windows.tall) y = 0, ++image;
    }
    product<kRows>(count, rows, windows.rows, width * channels, windows.columns * channels, panel, finish, output,
                   windows.outputs, place, to);
  }
}

// How Winograd's way is cut into pieces, each of which one thread does from maps to maps: to the caches of another core
// it may be as far as to memory, so what lies between the three steps stays in its own.
struct Pieces {
  long tiles;    // of one piece, at the most
  long outputs;  // of one piece
};

static Pieces pieces(long all, long channels, long held, int hands) {
  const long fit = padded(std::max(kBetween / (36 * (channels + held)), kFewest), kRows);
  // As many for each thread.
  const long each = blocks(all, padded(blocks(all, fit), hands));
  if (hands == 1 || each >= kFewest) return {each, held};
  // Of so few tiles each thread does some outputs of all, or it would read all weights for a few.
  return {std::min(all, 2 * fit), padded(blocks(held, 2L * hands), kPanel)};
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
