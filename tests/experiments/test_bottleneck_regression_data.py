"""Data of the bottleneck comparison: what is parsed from files, how rows are split and scaled, and what is refused."""

import lzma
import math
import zipfile

import numpy as np
import pytest

from experiments.bottleneck_regression.data import NAMES, SOURCES, UNITS, Source, Table, make_table, read_table
from experiments.bottleneck_regression.splits import make_split, stack_splits

HOUSES = (
    "longitude,latitude,housing_median_age,total_rooms,total_bedrooms,population,households,median_income,"
    "median_house_value,ocean_proximity\n"
    "-122.2,37.8,41.0,880.0,129.0,322.0,126.0,8.3,452600.0,NEAR BAY\n"
    "-122.3,37.9,21.0,7099.0,,2401.0,1138.0,8.1,358500.0,INLAND\n"
    "-122.4,37.7,21.0,7099.0,10.0,2401.0,1138.0,8.1,500001.0,INLAND\n"
)
AIR = (
    "No,year,month,day,hour,pm2.5,DEWP,TEMP,PRES,cbwd,Iws,Is,Ir,pm2.5_1ago,pm2.5_2ago,pm2.5_3ago\n"
    "1,2010,1,1,0,NA,-21,-11,1021,NW,1.79,0,0,NA,NA,NA\n"
    "2,2010,1,1,1,129,-21,-12,1020,cv,4.92,0,0,7,8,9\n"
    "3,2010,1,1,2,148,-20,-12,1020,NW,4.92,0,0,7,8,9\n"
)
BIKES = (
    "instant,dteday,season,yr,mnth,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed,casual,"
    "registered,cnt\n"
    "1,01-01-11,1,0,1,0,0,6,0,1,0.24,0.2879,0.81,0,3,13,16\n"
    "2,01-01-11,4,0,1,1,0,6,0,2,0.22,0.2727,0.8,0,8,32,40\n"
)
FISH = "X1-CIC0,X2-SM1_Dz(Z),Y-LC50\n3.26,0.829,3.77\n2.189,0.58,3.115\n"
ENERGY = '"date","Appliances","lights","T1","rv1","rv2"\n"2016-01-11 17:10:00","  60","30","19.89"," 13.2","13.2"\n'


def write_all(folder):
    texts = {"california_housing": HOUSES, "beijing_pm25": AIR, "bike_hour": BIKES, "qsar_fish_toxicity": FISH}
    for name, text in texts.items():
        (folder / SOURCES[name].file).write_bytes(lzma.compress(text.encode()))
    with zipfile.ZipFile(folder / SOURCES["energydata"].file, "w") as archive:
        archive.writestr("energydata_complete.csv", ENERGY)


def test_diabetes_is_embedded_and_in_its_own_units():
    table = read_table("diabetes")
    assert table.x.shape == (442, 10) and np.isfinite(table.x).all()
    assert table.x[:, 0].min() == 19 and table.x[:, 0].max() == 79  # years
    assert (table.y.min(), table.y.max()) == (25, 346)


def test_houses_lose_the_capped_price_and_have_a_logarithm(tmp_path):
    write_all(tmp_path)
    table = read_table("california_housing", tmp_path)
    np.testing.assert_allclose(table.y, [math.log(452600), math.log(358500)])
    assert table.columns[-2:] == ("ocean_proximity=INLAND", "ocean_proximity=NEAR BAY")
    np.testing.assert_array_equal(table.x[:, -2:], [[0, 1], [1, 0]])
    assert math.isnan(table.x[1, table.columns.index("total_bedrooms")]) and np.isnan(table.x).sum() == 1


def test_air_loses_rows_without_target_and_the_lags(tmp_path):
    write_all(tmp_path)
    table = read_table("beijing_pm25", tmp_path)
    assert table.y.tolist() == [129, 148]
    assert not any("ago" in name or name in ("No", "pm2.5") for name in table.columns)
    assert table.columns[-5:] == ("cbwd=NW", "cbwd=cv", "Iws", "Is", "Ir") and table.x.shape == (2, 12)


def test_bikes_lose_what_tells_their_number(tmp_path):
    write_all(tmp_path)
    table = read_table("bike_hour", tmp_path)
    assert table.y.tolist() == [16, 40]
    assert not {"casual", "registered", "instant", "dteday", "cnt"} & set(table.columns)
    assert table.columns[:2] == ("season=1", "season=4") and "weathersit=2" in table.columns
    assert table.x[1, table.columns.index("hr")] == 1


def test_energy_has_the_time_of_day_in_place_of_a_date(tmp_path):
    write_all(tmp_path)
    table = read_table("energydata", tmp_path)
    assert table.columns == ("lights", "T1", "minute", "weekday")
    assert table.x.tolist() == [[30, 19.89, 17 * 60 + 10, 0]] and table.y.tolist() == [60]  # a Monday


def test_fish_are_plain_numbers(tmp_path):
    write_all(tmp_path)
    table = read_table("qsar_fish_toxicity", tmp_path)
    assert table.x.tolist() == [[3.26, 0.829], [2.189, 0.58]] and table.y.tolist() == [3.77, 3.115]


def test_every_set_has_a_unit():
    assert set(UNITS) == set(NAMES)


def test_a_missing_directory_file_or_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="read_table: name is 'boston'; expected one of 'diabetes'"):
        read_table("boston")
    with pytest.raises(ValueError, match="directory is None; expected the folder that holds bike_hour"):
        read_table("bike_hour")
    with pytest.raises(ValueError, match=r"has no file bike_hour\.csv\.xz"):
        read_table("bike_hour", tmp_path)
    (tmp_path / "bike_hour.csv.xz").write_bytes(lzma.compress(BIKES.replace("casual", "CASUAL").encode()))
    with pytest.raises(ValueError, match="text has no column 'casual'"):
        read_table("bike_hour", tmp_path)
    with zipfile.ZipFile(tmp_path / "energydata_complete.zip", "w") as archive:
        archive.writestr("a.txt", "")
    with pytest.raises(ValueError, match=r"energydata_complete\.zip holds 0 CSV files; expected one"):
        read_table("energydata", tmp_path)


def test_text_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="text has 'two' in column 'a'"):
        make_table(Source("", "y", ""), "a,y\ntwo,1\n")
    with pytest.raises(ValueError, match="no row with a target"):
        make_table(Source("", "y", ""), "a,y\n2,\n3,NA\n")
    with pytest.raises(ValueError, match="no column 'y'"):
        make_table(Source("", "y", ""), "")


def blanks(rows=200):
    """Columns: an index, a number with blanks, a constant."""
    rng = np.random.default_rng(3)
    x = np.stack([np.arange(rows), rng.exponential(size=rows), np.full(rows, 5.0)], axis=1)
    x[::7, 1] = np.nan
    return Table(x, 3.0 * x[:, 0] + 1.0, ("index", "blank", "constant"))


def test_parts_hold_every_row_once():
    table = blanks()
    split = make_split(table, seed=1)
    assert [len(part.y) for part in split[:3]] == [128, 32, 40]
    order = np.random.default_rng(1).permutation(200)
    shift, scale = table.y[order[:128]].mean(), table.y[order[:128]].std()
    y = np.concatenate([part.y for part in split[:3]])
    np.testing.assert_allclose(y * scale + shift, table.y[order], rtol=1e-5)
    assert float(split.scale) == pytest.approx(scale)


def test_statistics_are_those_of_the_training_rows():
    table = blanks()
    order = np.random.default_rng(2).permutation(200)
    split = make_split(table, seed=2)
    known = table.x[order[:128], 1]
    median = np.median(known[np.isfinite(known)])
    filled = np.where(np.isnan(known), median, known)
    raw = table.x[order[160:], 1]
    expected = (np.where(np.isnan(raw), median, raw) - filled.mean()) / filled.std()
    np.testing.assert_allclose(split.test.x[:, 1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(split.train.x[:, :2].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(split.train.x[:, :2].std(axis=0), 1, rtol=1e-5)
    assert (split.train.x[:, 2] == 0).all() and (split.test.x[:, 2] == 0).all()
    assert split.train.x.dtype == split.train.y.dtype == np.float32


def test_training_rows_know_nothing_of_the_others():
    table = blanks()
    order = np.random.default_rng(0).permutation(200)
    changed = Table(table.x.copy(), table.y.copy(), table.columns)
    changed.x[order[128:]] = 1e6
    changed.y[order[128:]] = -1e6
    first, second = make_split(table, seed=0), make_split(changed, seed=0)
    np.testing.assert_array_equal(first.train.x, second.train.x)
    np.testing.assert_array_equal(first.train.y, second.train.y)
    assert (first.validation.y != second.validation.y).all()


def test_fewer_rows_are_the_first_in_the_seeds_order():
    table = blanks()
    split = make_split(table, seed=4, max_rows=100)
    assert [len(part.y) for part in split[:3]] == [64, 16, 20]
    rows = np.random.default_rng(4).permutation(200)[:64]
    assert float(split.scale) == pytest.approx(table.y[rows].std())
    np.testing.assert_allclose(split.train.y * split.scale + table.y[rows].mean(), table.y[rows], rtol=1e-5)


def test_stacked_splits_are_the_single_ones():
    table = blanks()
    stacked = stack_splits(table, seeds=range(5, 8), max_rows=100)
    assert stacked.train.x.shape == (3, 64, 3) and stacked.scale.shape == (3,)
    single = make_split(table, seed=6, max_rows=100)
    for name in ("train", "validation", "test"):
        for many, one in zip(getattr(stacked, name), getattr(single, name), strict=True):
            np.testing.assert_array_equal(many[1], one)
    assert (stacked.train.y[0] != stacked.train.y[1]).any()


def test_sets_that_cannot_be_split_are_refused():
    table = blanks()
    with pytest.raises(ValueError, match="make_split: table gives 49 rows; expected at least 50"):
        make_split(table, seed=0, max_rows=49)
    with pytest.raises(ValueError, match="only blanks among training rows in 'blank'"):
        make_split(table._replace(x=np.where([False, True, False], np.nan, table.x)), seed=0)
    with pytest.raises(ValueError, match="one target on all training rows"):
        make_split(table._replace(y=np.ones(200)), seed=0)


def test_a_category_that_training_rows_lack_stays_at_zero_there():
    rare = np.zeros((200, 1))
    rare[np.random.default_rng(0).permutation(200)[190:]] = 1.0  # ten test rows of seed 0
    table = blanks()
    split = make_split(table._replace(x=np.hstack([table.x, rare]), columns=(*table.columns, "c=rare")), seed=0)
    assert (split.train.x[:, 3] == 0).all() and (split.validation.x[:, 3] == 0).all()
    assert split.test.x[:, 3].tolist() == [0.0] * 30 + [1.0] * 10  # not blown up by a width of 0


def test_names_with_spaces_and_quotes_are_one_category():
    source = Source("", "y", "", categories=("where",), drop=("n",))
    table = make_table(source, 'n,where,y\n1," <1H, OCEAN",3\n2,"<1H, OCEAN ",4\n3,INLAND,5\n')
    assert table.columns == ("where=<1H, OCEAN", "where=INLAND")
    assert table.x.tolist() == [[1, 0], [1, 0], [0, 1]]


def test_a_row_is_left_out_by_its_target_alone():
    source = Source("", "y", "", transform=math.sqrt, keep=lambda y: y > 0)
    table = make_table(source, "a,b,y\n1,,4\n2,5,-1\n,,9\n")
    assert table.y.tolist() == [2.0, 3.0]  # kept before the root is taken
    np.testing.assert_array_equal(table.x, [[1, np.nan], [np.nan, np.nan]])


def test_short_rows_have_blanks():
    table = make_table(Source("", "y", ""), "y,a,b\n1,2\n3,4,5\n")
    np.testing.assert_array_equal(table.x, [[2, np.nan], [4, 5]])


def test_an_archive_with_two_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "energydata_complete.zip", "w") as archive:
        archive.writestr("a.csv", ENERGY)
        archive.writestr("b.csv", ENERGY)
    with pytest.raises(ValueError, match="holds 2 CSV files"):
        read_table("energydata", tmp_path)


def test_no_source_keeps_a_column_that_it_drops():
    for name, source in SOURCES.items():
        assert source.target not in source.drop and not set(source.drop) & set(source.categories), name
        assert source.file.endswith((".csv.xz", ".zip")) and source.unit
